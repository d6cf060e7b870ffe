"""What a notebook calls: ``erase.run`` and ``erase.evaluate``; the command line calls the same functions."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.protocol import Protocol
from pipelines.errors import DivergedError, InterruptedRun
from pipelines.model import DiT, load, save
from pipelines.model_source import check_model

from ..card import model_card
from ..checkpoint import checkpoint_step
from ..config import ErasureConfig
from ..configure import DEFAULT_METHOD, configure
from ..erasure import load_original, run_erasure
from ..interrupt import stoppable
from ..rundir import RunDir, cache_dir
from .devices import pick_device
from .evaluating import evaluate
from .judging import Judges, check_scoring, find_classifier, pick_protocol, protocol_scorer, try_judges
from .redrawing import redraw
from .result import Result
from .scoring import kept_record, preview_grid, score_run
from .stopping import FLAG, EarlyStopScore, early_stop_score

__all__ = ["DEFAULT_METHOD", "Request", "evaluate", "execute", "python_call", "request", "run"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that one run was asked for; checked, but nothing loaded or written yet."""

    config: ErasureConfig
    output_dir: Path
    protocol: Protocol | None  # None: not scored
    judges: Judges  # what it is scored with
    device: torch.device


def request(
    model: str,
    classes: Sequence[str | int],
    *,
    method: str = DEFAULT_METHOD,
    preset: str = "default",
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    protocol: str | Protocol | None = None,
    reference: str | None = None,
    classifier: str | None = None,
    inception: str | None = None,
    device: str = "auto",
) -> Request:
    """Check a request as far as it can be without loading a weight; the arguments are those of ``run``."""
    config = configure(model, classes, method=method, preset=preset, data=data, options=options)
    found = Request(
        config=config,
        output_dir=Path(output_dir) if output_dir else default_output(config),
        protocol=pick_protocol(protocol, model),
        judges=Judges(reference=reference, classifier=classifier, inception=inception),
        device=pick_device(device),
    )
    check_scoring(found.protocol, model, found.judges)
    if config.stop_classifier:
        find_classifier(config.stop_classifier, flag=FLAG)
    RunDir(found.output_dir).check(config)
    return found


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
    device: str = "auto",
    progress: bool = True,
) -> Result:
    """Erase classes from a model, score original and erased on identical noise, and write a run directory.

    ``options`` are engine and method settings by field name, e.g. ``{"steps": 200}``. The same call resumes a run that
    was cut short and returns a finished one. ``protocol="none"`` skips the scoring. Raises ``UsageError``,
    ``MissingError``, ``DivergedError`` or ``InterruptedRun`` of ``pipelines.errors``.
    """
    asked = request(
        model,
        classes,
        method=method,
        preset=preset,
        data=data,
        options=options,
        output_dir=output_dir,
        protocol=protocol,
        reference=reference,
        classifier=classifier,
        inception=inception,
        device=device,
    )
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
    words += [f"protocol={(protocol.name if protocol else 'none')!r}"]
    words += [f"{name}={value!r}" for name, value in asked.judges.to_dict().items() if value is not None]
    return f"erase.run({', '.join(words)})"


def execute(asked: Request, *, command: str, progress: bool) -> Result:
    """Carry out a request in its run directory: erase, save, score, report. ``command`` is shown in the report."""
    folder, clock = RunDir(asked.output_dir), Clock()
    check_model(asked.config.model, vae=asked.config.vae)
    try_judges(asked.protocol, asked.judges)
    scorer = stop_scorer(asked, folder, progress=progress)
    folder.claim(asked.config)
    clock.spent, repeated = folder.seconds, is_finished(asked, folder)
    try:
        erased, original = erased_model(asked, folder, clock, scorer=scorer, progress=progress)
        record = scored(original, erased, asked, folder, clock, command=command, progress=progress)
    except (DivergedError, InterruptedRun) as error:
        state = "diverged" if isinstance(error, DivergedError) else "interrupted"
        folder.set_status(state, reason=str(error), seconds=clock.seconds)
        raise
    seconds = clock.spent if repeated else clock.seconds
    folder.set_status("complete", seconds=seconds)
    return Result(
        model=erased,
        original=original,
        scores=record,
        config=asked.config,
        run_dir=asked.output_dir,
        seconds=seconds,
        repeated=repeated,
    )


class Clock:
    """Seconds that a run has taken over all its processes."""

    def __init__(self) -> None:
        self.spent = 0.0  # by earlier processes
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Those of earlier processes and of this one."""
        return round(self.spent + time.monotonic() - self.started, 1)


def stop_scorer(asked: Request, folder: RunDir, *, progress: bool) -> EarlyStopScore | None:
    """What scores the weights in between; None for a run that never stops early or is erased already."""
    if not asked.config.engine.stop_below or folder.is_erased:
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
    """The result record of a run; empty when it was asked not to score.

    Scores that are there for the same protocol and reference are read; a report that is missing is drawn from them.
    """
    if asked.protocol is None:
        return {}
    record = kept_record(folder, asked.protocol, asked.judges)
    if record is not None and folder.report_path.exists():
        return record
    folder.set_status("scoring", seconds=clock.seconds)
    with stoppable("scoring"):
        if record is not None:
            models = {"original": original, "erased": erased}
            scorer = protocol_scorer(original, asked.protocol, asked.judges)
            redraw(models, record, asked.config, folder, protocol=asked.protocol, scorer=scorer, command=command)
            return record
        return score_run(
            original,
            erased,
            asked.config,
            folder,
            protocol=asked.protocol,
            judges=asked.judges,
            command=command,
            progress=progress,
        )


def erased_model(
    asked: Request, folder: RunDir, clock: Clock, *, scorer: EarlyStopScore | None, progress: bool
) -> tuple[DiT, DiT]:
    """The erased and the original model: from the run directory where finished, else erased now and saved there."""
    config, device = asked.config, asked.device
    if folder.is_erased:
        return load(folder.model_dir, device=device), load_original(config, device=device)
    if folder.checkpoint_path.exists():
        folder.truncate_metrics(checkpoint_step(folder.checkpoint_path, config_hash=config.hash))
    else:
        folder.metrics_path.unlink(missing_ok=True)

    folder.set_status("erasing", seconds=clock.seconds)
    erased = run_erasure(
        config,
        cache_dir=cache_dir(),
        checkpoint_path=folder.checkpoint_path,
        log=folder.log,
        preview=lambda step, model: preview_grid(model, config, asked.protocol, folder, step),
        diverged=lambda model: save(model, folder.last_good_dir, card=model_card(model, config)),
        scorer=scorer,
        device=device,
        progress=progress,
    )
    erased.model.provenance = {"erased": config.as_dict(), "original": erased.original.provenance}
    folder.keep_masks(erased.masks)
    save(erased.model, folder.model_dir, card=model_card(erased.model, config))
    folder.checkpoint_path.unlink(missing_ok=True)
    return erased.model, erased.original


def default_output(config: ErasureConfig) -> Path:
    """``runs/MODEL-CLASSES-METHOD-HASH`` in the working directory: the same request finds its own folder again."""
    classes = "-".join(str(index) for index in config.forget_classes[:3])
    return Path("runs") / f"{Path(config.model).name.lower()}-{classes}-{config.method}-{config.hash[:6]}"
