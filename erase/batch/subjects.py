"""The models of a batch: those that it makes and those that are there, each checked before any work begins."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.companion import SUFFIXES
from pipelines.errors import MissingError, UsageError
from pipelines.model_source import EMBEDDED, check_model, load_classes, original_path, read_provenance
from pipelines.provenance import earlier_classes, erased_classes

from ..api import Request, request
from ..api.evaluating import compared
from ..api.judging import check_scoring, pick_protocol
from ..api.requesting import default_output
from ..config import ErasureConfig, erasure_from_dict
from ..rundir import RunDir
from .folder import BatchDir
from .jobs import Jobs, Models, Runs, here
from .located import Located, at


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model of the batch and its place in the table."""

    source: str  # of the model: a run directory, folder, hub id or checkpoint
    original: str
    vae: str
    config: ErasureConfig | None  # of the erasure, where it is known
    from_config: bool  # whether the original is the one that the configuration names
    forget_classes: tuple[int, ...]
    earlier_classes: tuple[int, ...]
    method: str
    settings: str  # what sets it apart from other models of its method; empty where nothing does
    seed: int | None
    request: Request | None  # what makes it; None: it is there
    place: Located

    @property
    def name(self) -> str:
        """A short name that the subjects of a batch do not share, for titles and files."""
        return Path(self.source).name if self.request else self.source


def subjects_of(jobs: Jobs, folder: BatchDir) -> list[Subject]:
    """Every model once (``UsageError`` and ``MissingError`` name file and line)."""
    found = [each for entry in jobs.runs for each in made_subjects(entry, jobs, folder)]
    found += [each for entry in jobs.models for each in given_subjects(entry, jobs)]
    return list({(each.source, each.forget_classes, each.original): each for each in found}.values())


def made_subjects(entry: Runs, jobs: Jobs, folder: BatchDir) -> Iterator[Subject]:
    """The runs of one entry: seeds change fastest, so that what a method prepares is in the cache."""
    model = here(jobs.path, entry.model.text("model"))
    with at(entry.model):
        check_model(model)
    check_judges(jobs, model)
    for classes in entry.classes:
        named = [each.text("a class") for each in classes.entries()]
        with at(classes):
            resolved = [load_classes(model).resolve(each) for each in named]
        for method in entry.methods:
            for settings in entry.settings:
                for seed in entry.seeds:
                    with at(entry.place):
                        made = request(
                            model, resolved, method=method.value, preset=entry.preset, data=entry.data,
                            options={"seed": seed, **settings}, protocol="none", device=jobs.device,
                            output_dir=folder.runs_dir / "unnamed", memory="fixed",
                        )  # fmt: skip
                    yield made_subject(made, settings_words(settings, entry.settings), folder, method)


def made_subject(made: Request, settings: str, folder: BatchDir, place: Located) -> Subject:
    """The model that a run will have made, in a folder named after its configuration."""
    config = made.config
    output = folder.runs_dir / default_output(config).name
    with at(place):
        RunDir(output).check(config)
    return Subject(
        source=str(output),
        original=config.model,
        vae="",
        config=config,
        from_config=True,
        forget_classes=config.forget_classes,
        earlier_classes=earlier_classes(read_provenance(config.model), config.forget_classes),
        method=config.method,
        settings=settings,
        seed=config.seed,
        request=Request(**{**vars(made), "output_dir": output}),
        place=place,
    )


def settings_words(settings: dict[str, Any], all_settings: Sequence[dict[str, Any]]) -> str:
    """The settings that differ between the rows of a table."""
    varied = [name for name in settings if len({repr(each.get(name)) for each in all_settings}) > 1]
    return ", ".join(f"{name.replace('_', ' ')} {settings[name]}" for name in varied)


def given_subjects(entry: Models, jobs: Jobs) -> Iterator[Subject]:
    """The models of one entry: a pattern stands for all folders and checkpoints that fit it."""
    original = here(jobs.path, entry.original.text("original")) if entry.original else ""
    if entry.original:
        with at(entry.original):
            check_model(original, vae=entry.vae if original_path(original) else "")
    for path in entry.paths:
        for source in sources_of(path, jobs):
            with at(path):
                check_model(source, vae=entry.vae if original_path(source) else "")
            check_judges(jobs, original or read_original(source))
            for classes in entry.classes or [None]:
                yield given_subject(source, classes or path, original, entry, named=classes is not None, jobs=jobs)


def read_original(source: str) -> str:
    """What a model says that it was erased from; the model itself where it says nothing."""
    return read_provenance(source).get("erased", {}).get("model", source)


def check_judges(jobs: Jobs, original: str) -> None:
    """Hold every protocol and the batch's own judges to a model before its erasure, and to one another."""
    judges = jobs.judged_by()
    for protocol, place in jobs.protocols:
        with at(jobs.judges.get("reference", place)):
            check_scoring(pick_protocol(protocol, original), original, judges)


def sources_of(path: Located, jobs: Jobs) -> list[str]:
    """The models that a path, pattern or hub id stands for (``MissingError`` for a pattern that nothing fits)."""
    text = path.text("path")
    if text in EMBEDDED or not glob.has_magic(text):
        return [here(jobs.path, text)]
    found = sorted(glob.glob(str(jobs.path.absolute().parent / text)))
    models = [each for each in found if Path(each).is_dir() or Path(each).suffix in SUFFIXES]
    if not models:
        raise MissingError(f"{path.place}: no model fits {text}")
    return models


def given_subject(source: str, place: Located, original: str, entry: Models, *, named: bool, jobs: Jobs) -> Subject:
    """A model that is there; its files say what was erased from it, unless the jobs file does."""
    classes = [each.text("a class") for each in place.entries()] if named else []
    with at(place):
        protocol = jobs.protocols[0][0] or pick_protocol(None, original or source)
        asked = compared(
            source, classes, original=original, vae=entry.vae, protocol=protocol, judges=jobs.judged_by(),
            neighbours=None, device=jobs.device,
        )  # fmt: skip
        counts = [len(load_classes(each)) for each in (source, asked.original)]
        if counts[0] != counts[1]:
            raise UsageError(f"{source} has {counts[0]} classes, its original {asked.original} has {counts[1]}")
    made = read_provenance(source).get("erased")
    config = erasure_from_dict(made) if made else None
    gone = {*erased_classes(read_provenance(source)), *erased_classes(read_provenance(asked.original))}
    return Subject(
        source=source,
        original=asked.original,
        vae=entry.vae,
        config=asked.config,
        from_config=asked.from_config,
        forget_classes=asked.forget_classes,
        earlier_classes=tuple(sorted(gone - set(asked.forget_classes))),
        method=entry.method or (config.method if config else Path(source).name),
        settings="",
        seed=entry.seed if entry.seed is not None or config is None else config.seed,
        request=None,
        place=place,
    )
