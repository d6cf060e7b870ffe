"""From a jobs file to its units of work in the order of the work: the same plan on every machine."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.probe import count_attacks
from eval.protocol import Protocol
from pipelines.model_source import load_classes, read_provenance
from pipelines.provenance import retained_classes
from pipelines.text import counted

from ..api.devices import pick_device
from ..api.evaluating import Comparison
from ..api.judging import pick_protocol
from ..api.plan import PROBED_IMAGES, erasure_rows
from ..configure import method_of
from .draw import Draw, original_identity, shard_name
from .folder import BatchDir
from .identity import model_identity, short_hash
from .jobs import Jobs
from .loaded import kept_kinds, observations_path
from .preparing import preparations
from .subjects import Subject, subjects_of
from .units import KINDS, ProbeUnit, RecordUnit, ReferenceUnit, RunUnit, ShardUnit, Unit


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that there is to do."""

    jobs: Jobs
    folder: BatchDir
    subjects: Sequence[Subject]
    units: Mapping[str, Unit]  # by name

    def of_kind(self, kind: str) -> list[Any]:
        """The units of one kind in order."""
        return [unit for unit in self.units.values() if unit.kind == kind]


def make_plan(jobs: Jobs) -> Plan:
    """Check a jobs file against the models and expand it (``UsageError`` and ``MissingError`` name file and line)."""
    folder = BatchDir(jobs.output)
    pick_device(jobs.device)
    subjects = subjects_of(jobs, folder)
    command = command_of(jobs)
    units: list[Unit] = prepared([run_unit(each, command) for each in subjects if each.request])
    for protocol, _ in jobs.protocols:
        for subject in subjects:
            units += scoring_units(subject, protocol, jobs, folder, command, first=protocol is jobs.protocols[0][0])
    units += probe_units(subjects, units, jobs)
    ordered = sorted({unit.name: unit for unit in units}.values(), key=lambda unit: KINDS.index(unit.kind))
    return Plan(jobs=jobs, folder=folder, subjects=subjects, units={unit.name: unit for unit in ordered})


def command_of(jobs: Jobs) -> str:
    """The command line that goes on with the batch."""
    return shlex.join(["erase", "batch", str(jobs.path)])


def prepared(runs: Sequence[RunUnit]) -> list[Unit]:
    """Runs behind the preparations that they share."""
    waits_for = preparations(runs)
    first = list({unit.name: unit for units in waits_for.values() for unit in units}.values())
    return [*first, *(replace(run, needs=tuple(unit.name for unit in waits_for.get(run.name, ()))) for run in runs)]


def run_name(subject: Subject) -> str:
    """The name of the unit that makes a model."""
    return f"run-{subject.name}"


def run_unit(subject: Subject, command: str) -> RunUnit:
    """Make one model."""
    config = subject.config
    retained = retained_classes(
        read_provenance(config.model), config.forget_classes, num_classes=len(load_classes(config.model))
    )
    rows = erasure_rows(config, method_of(config), num_retained=len(retained))
    return RunUnit(
        name=run_name(subject), title=f"make {subject.name}", model=subject.source, request=subject.request,
        command=command, rows=sum(rows.values()),
    )  # fmt: skip


def scoring_units(
    subject: Subject, protocol: Protocol | None, jobs: Jobs, folder: BatchDir, command: str, *, first: bool
) -> list[Unit]:
    """The shards of both sides, the real images, and the record that comes of them."""
    asked = comparison_of(subject, protocol, jobs)
    real = [
        ReferenceUnit(
            name=observations_path(folder, asked, kind).stem, title=f"{kind} images of {asked.original}", asked=asked,
            images=kind, model=asked.original,
        )
        for kind in kept_kinds(asked)
    ]  # fmt: skip
    shards = [
        shard
        for side in ("original", "erased")
        for label in (None, *subject.earlier_classes)
        for shard in shard_units(subject, asked, side, label, jobs)
    ]
    needs = tuple(unit.name for unit in (*real, *shards))
    labels = {
        "model": subject.name,
        "method": subject.method,
        "settings": subject.settings,
        "seed": subject.seed,
        "made": subject.request is not None,
    }
    key = short_hash([subject.source, subject.original, list(subject.forget_classes), asked.protocol.to_dict()])
    record = RecordUnit(
        name=f"record-{Path(subject.source).name}-{asked.protocol.name}-{key[:6]}",
        title=f"record of {subject.name} under {asked.protocol.name}", needs=needs, model=asked.original,
        asked=asked, earlier_classes=subject.earlier_classes, shards=shards, metrics=jobs.metrics, labels=labels,
        first=first, command=command,
    )  # fmt: skip
    return [*real, *shards, record]


def comparison_of(subject: Subject, protocol: Protocol | None, jobs: Jobs) -> Comparison:
    """A model against its original under one protocol."""
    return Comparison(
        model=subject.source,
        original=subject.original,
        vae=subject.vae,
        config=subject.config if subject.from_config else None,
        from_config=subject.from_config,
        forget_classes=subject.forget_classes,
        protocol=pick_protocol(protocol, subject.original),
        judges=jobs.judged_by(),
        device=pick_device(jobs.device),
    )


def shard_units(subject: Subject, asked: Comparison, side: str, label: int | None, jobs: Jobs) -> list[ShardUnit]:
    """The blocks of one side, a few to a shard."""
    draw = Draw(comparison=asked, side=side, earlier_classes=subject.earlier_classes, label=label, block=jobs.block)
    made = side == "erased" and subject.request is not None
    source = asked.original if side == "original" else asked.model
    facts, needs = draw.facts(identity_of(subject, asked, side)), (run_name(subject),) if made else ()
    sizes, settings, units = [len(block) for block in draw.blocks()], asked.protocol.sampler_settings(), []
    for first in range(0, len(sizes), jobs.shard_blocks):
        part = sizes[first : first + jobs.shard_blocks]
        start = first * jobs.block
        units.append(
            ShardUnit(
                name=shard_name(facts, first, len(part)),
                title=f"images {start} to {start + sum(part) - 1} of {Path(source).name}"
                + ("" if label is None else f" of class {label}"),
                needs=needs, model=source, draw=draw, first_block=first, num_blocks=len(part), num_images=sum(part),
                keep_images=jobs.keep_images,
                rows=len(part) * jobs.block * settings.network_rows(),
            )
        )  # fmt: skip
    return units


def identity_of(subject: Subject, asked: Comparison, side: str) -> str:
    """A model by its bytes, or by the configuration that will have made it."""
    if side == "original":
        return original_identity(asked)
    if subject.request is None:
        return model_identity(asked.model, vae=asked.vae)
    return f"{subject.config.hash} of {original_identity(asked)}"


def probe_units(subjects: Sequence[Subject], units: Sequence[Unit], jobs: Jobs) -> list[ProbeUnit]:
    """Attacks on runs of the batch: each run is attacked by one worker at a time."""
    records = {unit.asked.model: unit for unit in units if isinstance(unit, RecordUnit) and unit.goes_to_run}
    found = []
    for subject in subjects:
        for wanted in jobs.probes:
            chosen = (not wanted.methods or subject.method in wanted.methods) and (
                not wanted.seeds or subject.seed in wanted.seeds
            )
            if subject.request is None or not chosen:
                continue
            record = records[subject.source]
            rows = record.asked.protocol.sampler_settings().network_rows()
            found.append(
                ProbeUnit(
                    name=f"probe-{subject.name}-{wanted.budget}-{short_hash(list(wanted.names))[:6]}",
                    title=f"{counted(len(wanted.names), 'attack')} on {subject.name}",
                    needs=(record.name, *(unit.name for unit in found[-1:] if unit.run == Path(subject.source))),
                    model=subject.source, run=Path(subject.source), original=subject.original, names=wanted.names,
                    budget=wanted.budget, device=jobs.device,
                    rows=len(wanted.names) * count_attacks(len(subject.forget_classes)) * PROBED_IMAGES * rows,
                )
            )  # fmt: skip
    return found
