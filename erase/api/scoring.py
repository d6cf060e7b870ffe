"""Scores of an erasure: original and erased under one protocol, the row probe beside its baseline, pictures, report."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.by_class import add_attack
from eval.evaluate import draw_samples, evaluate, read_record, write_record
from eval.features import Scorer
from eval.pictures import grid, save_png
from eval.probe import Budget, ProbeResult, run_probe
from eval.protocol import Protocol
from eval.report import Report, pictured_classes, write_report
from pipelines.errors import UsageError
from pipelines.generate import generate_all
from pipelines.model import DiT
from pipelines.provenance import erased_classes, retained_classes
from pipelines.ranks import on_first
from pipelines.sampler import SamplerSettings

from ..config import ErasureConfig
from ..method import method_class
from ..rundir import RunDir
from .judging import Judges, real_reference, training_features

PROBE = "embedding_restore"  # the probe of every run; the others are `erase probe`'s
PREVIEW_SAMPLER = SamplerSettings(sampler="dpm-solver++", num_inference_steps=8)  # of runs that are not scored


def score_run(
    original: DiT,
    erased: DiT,
    config: ErasureConfig,
    folder: RunDir,
    *,
    protocol: Protocol,
    judges: Judges,
    scorer: Scorer,
    gates: Sequence[str] = (),
    command: str,
    scored_by: Sequence[str] = (),
    progress: bool,
) -> dict[str, Any]:
    """Score a run, write ``eval/results.json``, ``samples/`` and ``report.html``; returns the record.

    ``gates`` are the bounds that the report says are held or not; ``scored_by`` are the words of the command that
    scores it, where that is not the ``command`` that made it.
    """
    models = {"original": original, "erased": erased}
    record = score_models(
        models, config.forget_classes, protocol=protocol, scorer=scorer, judges=judges, progress=progress
    )
    budget = Budget(original=original, protocol=protocol, scorer=scorer)
    by_class = run_probe(PROBE, erased, config.forget_classes, budget, control_class=control_class(record, budget))
    found = by_class[add_attack(record, PROBE, by_class)]
    record |= {"config": config.as_dict(), "command": command, "gates": list(gates)}
    if scored_by:
        add_command(record, scored_by)

    on_first(lambda: write_record(record, folder.results_path))
    show(models, record, {PROBE: found}, config, folder, protocol=protocol, command=command)
    return record


def show(
    models: Mapping[str, DiT],
    record: Mapping[str, Any],
    found: Mapping[str, Mapping[str, ProbeResult]],
    config: ErasureConfig,
    folder: RunDir,
    *,
    protocol: Protocol,
    command: str,
) -> None:
    """Pictures of every model on the noise that the scores saw, and the report."""
    shown = pictured_classes(record)
    samples = draw_samples(models, shown, protocol=protocol)

    def write() -> None:
        for name, picture in (("before", samples["original"]), ("after", samples["erased"])):
            save_png(grid(picture.flatten(0, 1), columns=picture.shape[1], scale=2), folder.samples_dir / f"{name}.png")
        report = Report(
            record=record,
            samples=samples,
            sampled_classes=shown,
            history=folder.read_metrics(),
            command=command,
            facts=facts_of(config),
            probes=found,
            previews=folder.previews(),
        )
        write_report(folder.report_path, report)

    on_first(write)


def add_command(record: dict[str, Any], words: Sequence[str]) -> None:
    """Note a command that added to a record, so that its report tells it; the same one is told once, the last last."""
    command = shlex.join(words)
    record["added_by"] = [*(each for each in record.get("added_by", []) if each != command), command]


def kept_record(folder: RunDir, protocol: Protocol, judges: Judges) -> dict[str, Any] | None:
    """The record of an earlier scoring under the same protocol and reference; None when there is none."""
    if not folder.results_path.exists():
        return None
    record = read_record(folder.results_path)
    return record if record.get("asked") == asked_for(protocol, judges) else None


def asked_for(protocol: Protocol, judges: Judges) -> dict[str, Any]:
    """What a scoring was asked for, as it stands in its record."""
    return {"protocol": protocol.to_dict(), **judges.to_dict()}


def score_models(
    models: Mapping[str, DiT],
    forget_classes: tuple[int, ...],
    *,
    protocol: Protocol,
    scorer: Scorer,
    judges: Judges,
    progress: bool,
) -> dict[str, Any]:
    """The result record of an original and an erased model."""
    original = models["original"]
    gone = {label for model in models.values() for label in erased_classes(model.provenance)}
    earlier = sorted(gone - set(forget_classes))
    removed = (*forget_classes, *earlier)
    record = evaluate(
        models,
        forget_classes=forget_classes,
        protocol=protocol,
        scorer=scorer,
        reference=real_reference(original, removed, scorer=scorer, source=judges.reference),
        earlier_classes=earlier,
        neighbours=judges.neighbours,
        training_features=training_features(original, removed, scorer=scorer),
        progress=progress,
    )
    return {**record, "asked": asked_for(protocol, judges)}


def control_class(record: Mapping[str, Any], budget: Budget) -> int:
    """A retained class that the attacker has images of: the nearest neighbour that has any (``UsageError``: none).

    An attacker without any images needs none.
    """
    original = budget.original
    others = retained_classes(original.provenance, record["forget_classes"], num_classes=original.num_classes)
    owned = set(others if budget.images is None else budget.images.class_labels.tolist())
    for label in (*record.get("neighbours", ()), *others):
        if label in owned and label in others:
            return label
    raise UsageError("--data holds no image of a retained class, so no attack has a control")


def facts_of(config: ErasureConfig) -> dict[str, str]:
    """A few words about the run for the head of the report; an edit has neither steps nor optimizers."""
    steps = {"optimizers": config.engine.optimizers, "steps": str(config.engine.steps)}
    return {
        "model": config.model,
        "method": config.method,
        **(steps if method_class(config.method).trains else {}),
        "seed": str(config.seed),
        "data": config.data,
    }


def preview_grid(model: DiT, config: ErasureConfig, protocol: Protocol | None, path: Path) -> None:
    """A picture of what the erased classes draw now, always on the same noise."""
    settings = protocol.sampler_settings() if protocol else PREVIEW_SAMPLER
    requests = [(label, number) for label in config.forget_classes[:4] for number in range(8)]
    images = generate_all(model, requests, settings)
    on_first(lambda: save_png(grid(images, columns=8, scale=2), path))
