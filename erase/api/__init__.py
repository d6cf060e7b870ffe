"""What a notebook calls: ``erase.run`` and ``erase.evaluate``; the command line calls the same functions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eval.protocol import Protocol
from pipelines.errors import DivergedError, InterruptedRun, UsageError
from pipelines.model import DiT, load
from pipelines.model_source import check_model, load_classes, original_path, read_provenance
from pipelines.ranks import first_finishes, is_first, joined, on_first, shared_errors

from ..config import ErasureConfig, erasure_from_dict
from ..configure import DEFAULT_METHOD
from ..erasure import load_original, run_erasure
from ..interrupt import stoppable
from ..rundir import RunDir, cache_dir, find_run
from .cards import keep, write_card
from .devices import pick_device
from .judging import Judges, check_scoring, protocol_scorer, try_judges
from .keeping import Clock, begin, keep_erased
from .requesting import Request, pick_protocol, request
from .result import Result
from .scoring import EarlyStopScore, kept_record, preview_grid, score_models, score_run
from .watching import Neighbours, choose_neighbours


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
    progress: bool = True,
) -> Result:
    """Erase classes from a model, score original and erased on identical noise, and write a run directory.

    ``options`` are engine and method settings by field name, e.g. ``{"steps": 200}``; ``memory="auto"`` adds those that
    the run needs to fit on the device, ``"fixed"`` adds none. ``protocol="none"`` skips the scoring; ``neighbours`` are
    the classes to watch, or how many. The same call resumes a run that was cut short and returns a finished one.
    Raises the errors of ``pipelines.errors``.
    """
    with joined():
        asked = request(
            model, classes, method=method, preset=preset, data=data, options=options, output_dir=output_dir,
            protocol=protocol, reference=reference, classifier=classifier, inception=inception,
            neighbours=neighbours, device=device, memory=memory,
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
    words += [f"protocol={(protocol.name if protocol else 'none')!r}"]
    words += [f"{name}={value!r}" for name, value in asked.judges.to_dict().items() if value is not None]
    return f"erase.run({', '.join(words)})"


def execute(asked: Request, *, command: str, progress: bool) -> Result:
    """Carry out a request in its run directory: erase, save, score, report. ``command`` is shown in the report."""
    folder, clock = RunDir(asked.output_dir), Clock()
    progress = progress and is_first()
    if progress:
        asked.tell()
    with shared_errors():
        check_model(asked.config.model, vae=asked.config.vae)
        try_judges(asked.protocol, asked.judges)
    on_first(lambda: folder.claim(asked.config))
    with shared_errors():
        find_run(folder.path)  # every process reads what the first one writes
    clock.spent, repeated = on_first(lambda: (folder.seconds, is_finished(asked, folder)))
    try:
        erased, original = erased_model(asked, folder, clock, progress=progress)
        record = scored(original, erased, asked, folder, clock, command=command, progress=progress)
    except (DivergedError, InterruptedRun) as error:
        state = "diverged" if isinstance(error, DivergedError) else "interrupted"
        reason = str(error)
        first_finishes(lambda: folder.set_status(state, reason=reason, seconds=clock.seconds))
        raise
    if record and not repeated:
        on_first(lambda: write_card(folder))
    seconds = clock.spent if repeated else clock.seconds
    on_first(lambda: folder.set_status("complete", seconds=seconds))
    return Result(
        model=erased,
        original=original,
        scores=record,
        config=asked.config,
        run_dir=asked.output_dir,
        seconds=seconds,
        repeated=repeated,
    )


def is_finished(asked: Request, folder: RunDir) -> bool:
    """Whether everything that was asked for is there already."""
    unscored = asked.protocol is None
    return folder.state == "complete" and (unscored or kept_record(folder, asked.protocol, asked.judges) is not None)


def scored(
    original: DiT, erased: DiT, asked: Request, folder: RunDir, clock: Clock, *, command: str, progress: bool
) -> dict[str, Any]:
    """The result record of a run; empty when it was asked not to score."""
    if asked.protocol is None:
        return {}
    on_first(lambda: folder.set_status("scoring", seconds=clock.seconds))
    with stoppable("scoring"):
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


def evaluate(
    model: str,
    *classes: str | int,
    original: str = "",
    vae: str = "",
    protocol: str | Protocol | None = None,
    reference: str | None = None,
    classifier: str | None = None,
    inception: str | None = None,
    neighbours: Neighbours = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """The result record of an erased model (run directory, folder, hub id or checkpoint) against its original.

    Classes, ``original`` and its ``vae`` need not be given for a model that this tool erased: its files know them.
    """
    config, given = erasure_of(model, classes, original), bool(original)
    original = original or config.model
    if vae and not (original_path(original) or original_path(model)):
        raise UsageError(f"--vae {vae} has no effect: neither model is an original checkpoint")
    forget_classes = tuple(map(load_classes(original).resolve, classes)) or config.forget_classes
    found, where = pick_protocol(protocol or None, original), pick_device(device)
    if found is None:
        raise UsageError("--protocol none leaves nothing to evaluate")
    watched = choose_neighbours(original, forget_classes, neighbours, protocol=found)
    judges = Judges(reference=reference, classifier=classifier, inception=inception, neighbours=watched)
    check_scoring(found, original, judges, stop_below=0)
    models = {
        "original": load_original(config, device=where) if config and not given else load_side(original, vae, where),
        "erased": load_side(model, vae, where),
    }
    return score_models(
        models,
        forget_classes,
        protocol=found,
        scorer=protocol_scorer(models["original"], found, judges),
        judges=judges,
        progress=progress,
    )


def erasure_of(model: str, classes: Sequence[str | int], original: str) -> ErasureConfig | None:
    """How a model was erased, if its files say; without, classes and original must be named (``UsageError``)."""
    made = read_provenance(model).get("erased")
    if not made and not (original and classes):
        raise UsageError(f"{model} does not say what it was erased from: name its classes and --original")
    return erasure_from_dict(made) if made else None


def load_side(source: str, vae: str, device: torch.device) -> DiT:
    """A model, with the named VAE where it is a checkpoint that has none."""
    return load(source, vae=vae if original_path(source) else "", device=device)


def erased_model(asked: Request, folder: RunDir, clock: Clock, *, progress: bool) -> tuple[DiT, DiT]:
    """The erased and the original model: from the run directory where finished, else erased now and saved there."""
    config, device = asked.config, asked.device
    if on_first((folder.model_dir / "model_index.json").exists):
        return load(folder.model_dir, device=device), load_original(config, device=device)
    on_first(lambda: begin(config, folder, clock))
    erased = run_erasure(
        config,
        cache_dir=cache_dir(),
        checkpoint_path=folder.checkpoint_path,
        log=folder.log if is_first() else lambda line: None,
        preview=lambda step, model: preview_grid(model, config, asked.protocol, folder, step),
        diverged=lambda model: keep(model, model.provenance, config, folder.last_good_dir, diverged=True),
        scorer=EarlyStopScore(config, asked.protocol, asked.judges),
        device=device,
        progress=progress,
    )
    erased.model.provenance = on_first(lambda: keep_erased(erased, config, folder))
    return erased.model, erased.original
