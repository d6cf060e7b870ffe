"""What a notebook calls: ``erase.run`` and ``erase.evaluate``; the command line calls the same functions."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from eval.protocol import PROTOCOLS, Protocol, differences
from pipelines.errors import DivergedError, InterruptedRun, MissingError, UsageError
from pipelines.model import DiT, load
from pipelines.model_source import check_model
from pipelines.ranks import first_finishes, is_first, joined, on_first, shared_errors

from ..configure import DEFAULT_METHOD
from ..erasure import load_original, run_erasure
from ..interrupt import stoppable
from ..run_log import RunLog
from ..rundir import RunDir, cache_dir, find_run
from .cards import keep, write_card
from .evaluating import evaluate
from .judging import protocol_scorer, try_judges
from .keeping import Clock, begin, end, keep_erased
from .redrawing import redraw
from .requesting import Request, request
from .result import Result, Unscored
from .scoring import kept_record, preview_grid, score_run
from .stopping import EarlyStopScore, early_stop_score
from .watching import Neighbours

__all__ = ["DEFAULT_METHOD", "Request", "evaluate", "execute", "python_call", "request", "run"]


def run(
    model: str,
    *classes: str | int,
    method: str = DEFAULT_METHOD,
    preset: str = "default",
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    protocol: str | Protocol | None = None,
    reference: str | None = None,
    classifier: str | None = None,
    inception: str | None = None,
    neighbours: Neighbours = None,
    device: str = "auto",
    memory: str = "auto",
    log_to: Sequence[str] = (),
    progress: bool = True,
) -> Result:
    """Erase classes from a model, score original and erased on identical noise, and write a run directory.

    ``options`` are engine and method settings by field name, e.g. ``{"steps": 200}``; ``memory="auto"`` adds those that
    the run needs to fit on the device, ``"fixed"`` adds none. ``protocol="none"`` skips the scoring; ``neighbours`` are
    the classes to watch, or how many. ``log_to`` names loggers that get a copy of the run's log, as ``("wandb",)``.
    The same call resumes a run that was cut short and returns a finished one.
    Raises the errors of ``pipelines.errors``.
    """
    with joined():
        asked = request(
            model, classes, method=method, preset=preset, data=data, options=options, output_dir=output_dir,
            protocol=protocol, reference=reference, classifier=classifier, inception=inception,
            neighbours=neighbours, device=device, memory=memory, log_to=log_to,
        )  # fmt: skip
        command = python_call(model, classes, asked, preset=preset, given=options or {})
        return execute(asked, command=command, progress=progress)


def python_call(
    model: str, classes: Sequence[str | int], asked: Request, *, preset: str, given: Mapping[str, Any]
) -> str:
    """The call of ``run`` that makes the same run again, for the report."""
    config, protocol = asked.config, asked.protocol
    words = [repr(model), *map(repr, classes), f"method={config.method!r}", f"data={config.data!r}"]
    words += [f"preset={preset!r}"] if preset != "default" else []
    words += [f"options={dict(given)!r}"] if given else []
    words += [f"protocol={typed_protocol(protocol)}"]
    words += [f"{name}={value!r}" for name, value in asked.judges.to_dict().items() if value is not None]
    return f"erase.run({', '.join(words)})"


def typed_protocol(protocol: Protocol | None) -> str:
    """A protocol as one types it: its name, the named one with what was varied, or all of it."""
    if protocol is None:
        return repr("none")
    if protocol.name not in PROTOCOLS:
        return repr(protocol)
    varied = differences(PROTOCOLS[protocol.name].to_dict(), protocol.to_dict())
    changes = "".join(f", {name}={value!r}" for name, (_, value) in varied.items())
    if not changes:
        return repr(protocol.name)
    return f"dataclasses.replace(erase.PROTOCOLS[{protocol.name!r}]{changes})"


def execute(asked: Request, *, command: str, progress: bool) -> Result:
    """Carry out a request in its run directory: erase, save, score, report. ``command`` is shown in the report."""
    folder, clock = RunDir(asked.output_dir), Clock()
    progress = progress and is_first()
    if progress:
        asked.tell()
    with shared_errors():
        check_model(asked.config.model, vae=asked.config.vae)
        try_judges(asked.protocol, asked.judges)
    scorer = stop_scorer(asked, folder, progress=progress)
    on_first(lambda: folder.claim(asked.config, command=command))
    with shared_errors():
        find_run(folder.path)  # every process reads what the first one writes
    clock.spent, repeated = on_first(lambda: (folder.seconds, is_finished(asked, folder)))
    with closing(RunLog(folder, asked.config, asked.log_to)) as log:
        try:
            erased, original = erased_model(asked, folder, clock, log, scorer=scorer, progress=progress)
            record = scored(original, erased, asked, folder, clock, command=command, progress=progress)
        except (DivergedError, InterruptedRun) as error:
            state = "diverged" if isinstance(error, DivergedError) else "interrupted"
            reason = str(error)
            first_finishes(lambda: end(folder, log, state, reason=reason, seconds=clock.seconds))
            raise
        except (UsageError, MissingError):  # data that cannot be used are found when they are read
            if is_first():
                folder.abandon()
            raise
        if record and not repeated:
            on_first(lambda: write_card(folder))
        seconds = clock.spent if repeated else clock.seconds
        on_first(lambda: folder.set_status("complete", seconds=seconds))
        on_first(lambda: log.scores(record))
    return Result(
        model=erased, original=original, scores=record, config=asked.config, run_dir=asked.output_dir,
        seconds=seconds, repeated=repeated,
    )  # fmt: skip


def stop_scorer(asked: Request, folder: RunDir, *, progress: bool) -> EarlyStopScore | None:
    """What scores the weights in between; None for a run that never stops early or is erased already."""
    if not asked.config.engine.stop_below or on_first(lambda: folder.is_erased):
        return None
    with stoppable("preparing"):
        return early_stop_score(asked.config, asked.protocol, asked.judges, device=asked.device, progress=progress)


def is_finished(asked: Request, folder: RunDir) -> bool:
    """Whether everything that was asked for is there already."""
    unscored = asked.protocol is None
    return folder.state == "complete" and (unscored or kept_record(folder, asked.protocol, asked.judges) is not None)


def scored(
    original: DiT, erased: DiT, asked: Request, folder: RunDir, clock: Clock, *, command: str, progress: bool
) -> dict[str, Any]:
    """The result record of a run; ``Unscored`` when it was asked not to score.

    Scores that are there for the same protocol and reference are read; a report that is missing is drawn from them.
    """
    if asked.protocol is None:
        return Unscored()
    record, shown = on_first(lambda: (kept_record(folder, asked.protocol, asked.judges), folder.report_path.exists()))
    if record is not None and shown:
        return record
    on_first(lambda: folder.set_status("scoring", seconds=clock.seconds))
    with stoppable("scoring"):
        scorer = protocol_scorer(original, asked.protocol, asked.judges)
        if record is not None:
            models = {"original": original, "erased": erased}
            redraw(models, record, asked.config, folder, protocol=asked.protocol, scorer=scorer, command=command)
            return record
        return score_run(
            original,
            erased,
            asked.config,
            folder,
            protocol=asked.protocol,
            judges=asked.judges,
            scorer=scorer,
            gates=asked.gates,
            command=command,
            progress=progress,
        )


def erased_model(
    asked: Request, folder: RunDir, clock: Clock, log: RunLog, *, scorer: EarlyStopScore | None, progress: bool
) -> tuple[DiT, DiT]:
    """The erased and the original model: from the run directory where finished, else erased now and saved there."""
    config, device = asked.config, asked.device
    if on_first(lambda: folder.is_erased):
        on_first(lambda: log.open(folder.last_logged_step))
        return load(folder.model_dir, device=device), load_original(config, device=device)
    on_first(lambda: log.open(begin(config, folder, clock)))

    def preview(step: int, model: DiT) -> None:
        preview_grid(model, config, asked.protocol, folder.preview_path(step))
        on_first(lambda: log.preview(step))

    erased = run_erasure(
        config,
        cache_dir=cache_dir(),
        checkpoint_path=folder.checkpoint_path,
        log=log.line if is_first() else lambda line: None,
        preview=preview,
        diverged=lambda model: keep(model, model.provenance, config, folder.last_good_dir, diverged=True),
        scorer=scorer,
        device=device,
        progress=progress,
    )
    erased.model.provenance = on_first(lambda: keep_erased(erased, config, folder))
    return erased.model, erased.original
