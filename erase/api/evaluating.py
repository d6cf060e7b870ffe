"""``erase eval``: an erased model against its original under a protocol, and away from it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eval.evaluate import write_record
from eval.features import ClassifierScorer, Scorer
from eval.protocol import Protocol
from eval.sweep import NUM_IMAGES, sweep_rows
from pipelines.errors import UsageError
from pipelines.model import DiT, load
from pipelines.model_source import load_classes, original_path, read_provenance

from ..config import ErasureConfig, erasure_from_dict
from ..erasure import load_original
from ..interrupt import stoppable
from ..rundir import RunDir
from .cards import write_card
from .devices import pick_device
from .judging import (
    Judges,
    check_other_classifier,
    check_scoring,
    find_classifier,
    load_given_classifier,
    pick_protocol,
    protocol_scorer,
)
from .redrawing import redraw
from .scoring import add_command, kept_record, score_models, score_run
from .watching import Neighbours, choose_neighbours, typed

FLAG = "--second-classifier"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What an evaluation compares and how; checked, but nothing loaded yet."""

    model: str
    original: str
    vae: str
    config: ErasureConfig | None  # of the erasure, where the model's files say
    from_config: bool  # whether the original is the one that the model remembers
    forget_classes: tuple[int, ...]
    protocol: Protocol
    judges: Judges
    device: torch.device

    def load(self) -> dict[str, DiT]:
        """The two models."""
        return {"original": self.load_original(), "erased": self.load_erased()}

    def load_original(self) -> DiT:
        """The model before the erasure."""
        if self.from_config:
            return load_original(self.config, device=self.device)
        return load_side(self.original, self.vae, self.device)

    def load_erased(self) -> DiT:
        """The erased model."""
        return load_side(self.model, self.vae, self.device)

    def kept(self) -> tuple[RunDir, dict[str, Any]] | None:
        """The run that the model is and its record, where it is scored under this protocol against this original."""
        folder = self.run_dir()
        record = kept_record(folder, self.protocol, self.judges) if folder else None
        return None if record is None else (folder, record)

    def run_dir(self) -> RunDir | None:
        """The run that the model is, where it is compared as it was made."""
        folder = RunDir(Path(self.model))
        as_made = self.from_config and self.forget_classes == self.config.forget_classes
        return folder if as_made and folder.is_erased else None

    def command(self, *flags: str, more: Mapping[str, str] | None = None) -> list[str]:
        """The words of the command line that scores the same way, with these flags and more options."""
        judges = {**self.judges.to_dict(), "neighbours": typed(self.judges.neighbours)}
        given = {"protocol": self.protocol.name, **judges, **(more or {})}
        options = [word for name, value in given.items() if value for word in (f"--{name}", value)]
        return ["erase", "eval", self.model, *flags, *options]


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
    sweep: bool = False,
    sweep_images: int = NUM_IMAGES,
    second_classifier: str = "",
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """The result record of an erased model (run directory, folder, hub id or checkpoint) against its original.

    Classes, ``original`` and its ``vae`` need not be given for a model that this tool erased: its files know them.
    A finished run that has no scores gets them, with report and card. With ``sweep`` the record also holds the forget
    accuracy under other conditions, from ``sweep_images`` images of each class, one of them a ``second_classifier``
    (timm model, ``NAME:WEIGHTS`` or folder) where that is named. A run that was scored under this protocol is then not
    scored again, and gets the sweep into its record and report.
    """
    check_sweep(sweep, sweep_images=sweep_images, second_classifier=second_classifier)
    judges = Judges(reference=reference, classifier=classifier, inception=inception)
    asked = compared(
        model, classes, original=original, vae=vae, protocol=protocol, judges=judges, neighbours=neighbours,
        device=device,
    )  # fmt: skip
    models = asked.load()
    scorer = protocol_scorer(models["original"], asked.protocol, judges)
    if not sweep:
        return scores(asked, models, scorer, progress=progress)
    second = second_scorer(second_classifier, models["original"], scorer) if second_classifier else None
    more = {"second-classifier": second_classifier, "sweep-images": str(sweep_images)}
    command = asked.command("--sweep", more=more)
    return swept(asked, models, scorer, second, num_images=sweep_images, command=command, progress=progress)


def compared(
    model: str,
    classes: Sequence[str | int],
    *,
    original: str,
    vae: str,
    protocol: str | Protocol | None,
    judges: Judges,
    neighbours: Neighbours,
    device: str,
) -> Comparison:
    """Check an evaluation as far as it can be without loading a weight; the arguments are those of ``evaluate``."""
    config, from_config = erasure_of(model, classes, original), not original
    original = original or config.model
    if vae and not (original_path(original) or original_path(model)):
        raise UsageError(f"--vae {vae} has no effect: neither model is an original checkpoint")
    forget_classes = tuple(sorted(set(map(load_classes(original).resolve, classes)))) or config.forget_classes
    found = pick_protocol(protocol or None, original)
    if found is None:
        raise UsageError("--protocol none leaves nothing to evaluate")
    watched = choose_neighbours(original, forget_classes, neighbours, protocol=found)
    check_scoring(found, original, judges)
    return Comparison(
        model=model,
        original=original,
        vae=vae,
        config=config,
        from_config=from_config,
        forget_classes=forget_classes,
        protocol=found,
        judges=replace(judges, neighbours=watched),
        device=pick_device(device),
    )


def check_sweep(sweep: bool, *, sweep_images: int, second_classifier: str) -> None:
    """Refuse a count below one, a second classifier that is none, and either without a sweep (``UsageError``)."""
    if sweep_images < 1:
        raise UsageError(f"--sweep-images {sweep_images} must be at least 1")
    if not sweep and sweep_images != NUM_IMAGES:
        raise UsageError(f"--sweep-images {sweep_images} has no effect without --sweep")
    if not sweep and second_classifier:
        raise UsageError(f"{FLAG} {second_classifier} has no effect without --sweep")
    if second_classifier:
        find_classifier(second_classifier, flag=FLAG)


def second_scorer(given: str, original: DiT, scorer: Scorer) -> Scorer:
    """A classifier that knows the model's classes and is not the protocol's (``UsageError``)."""
    found = load_given_classifier(given, flag=FLAG, num_classes=original.num_classes, device=original.device)
    second = ClassifierScorer(found, feature_space=found.name)
    check_other_classifier(second.name, scorer.name, given=given, flag=FLAG)
    return second


def scores(asked: Comparison, models: Mapping[str, DiT], scorer: Scorer, *, progress: bool) -> dict[str, Any]:
    """The result record of both models; that of a finished run without one is kept there, with report and card."""
    folder = asked.run_dir()
    if folder is not None and folder.state == "complete" and is_half_scored(asked, folder):
        with stoppable("scoring"):
            if (kept := asked.kept()) is not None:
                record = kept[1]
                redraw(models, record, asked.config, folder, protocol=asked.protocol, scorer=scorer, command="")
            else:
                record = score_run(
                    models["original"], models["erased"], asked.config, folder, protocol=asked.protocol,
                    judges=asked.judges, scorer=scorer, command=folder.command, scored_by=asked.command(),
                    progress=progress,
                )  # fmt: skip
            write_card(folder)
        return record
    return score_models(
        models, asked.forget_classes, protocol=asked.protocol, scorer=scorer, judges=asked.judges, progress=progress
    )


def is_half_scored(asked: Comparison, folder: RunDir) -> bool:
    """Whether a run has no record, or that of the same command and no report: its scoring was stopped in between."""
    if not folder.results_path.exists():
        return True
    kept = asked.kept()
    begun = kept is not None and shlex.join(asked.command()) in kept[1].get("added_by", [])
    return begun and not folder.report_path.exists()


def swept(
    asked: Comparison,
    models: Mapping[str, DiT],
    scorer: Scorer,
    second: Scorer | None,
    *,
    num_images: int,
    command: Sequence[str],
    progress: bool,
) -> dict[str, Any]:
    """The result record with a sweep; that of a run is kept after each row, so that a sweep cut short goes on."""
    kept = asked.kept()
    record = kept[1] if kept else scores(asked, models, scorer, progress=progress)
    kept = kept or asked.kept()  # a run that had no scores has them now
    rows = sweep_rows(
        models,
        forget_classes=asked.forget_classes,
        protocol=asked.protocol,
        scorer=scorer,
        second=second,
        num_images=num_images,
        known=record.get("sweep", []),
        progress=progress,
    )
    with stoppable("sweeping"):
        record["sweep"] = []
        for row in rows:
            record["sweep"].append(row)
            if kept:
                write_record(record, kept[0].results_path)
        if kept:
            add_command(record, command)
            write_record(record, kept[0].results_path)
            redraw(models, record, asked.config, kept[0], protocol=asked.protocol, scorer=scorer, command="")
    return record


def erasure_of(model: str, classes: Sequence[str | int], original: str) -> ErasureConfig | None:
    """How a model was erased, if its files say; without, classes and original must be named (``UsageError``)."""
    made = read_provenance(model).get("erased")
    if not made and not (original and classes):
        raise UsageError(f"{model} does not say what it was erased from: name its classes and --original")
    return erasure_from_dict(made) if made else None


def load_side(source: str, vae: str, device: torch.device) -> DiT:
    """A model, with the named VAE where it is a checkpoint that has none."""
    return load(source, vae=vae if original_path(source) else "", device=device)
