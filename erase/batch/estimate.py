"""What a batch will take, before it begins: counts, forward passes, time and disk."""

from functools import cache
from typing import Any

import torch

from eval.features import INCEPTION
from eval.protocol import OWN_CLASSIFIER
from pipelines.files import read_json
from pipelines.model_source import classifier_dir, transformer_config
from pipelines.text import counted, duration, explained, gib

from ..api.devices import pick_device
from ..api.plan import count, forward_flops
from ..api.speed import IDLE, measured_flops
from ..memory import BYTES, described, meta_transformer
from .plan import Plan
from .units import KINDS, ShardUnit, Unit
from .worker import Board

INCEPTION_FEATURES = 2048


def estimate(plan: Plan) -> dict[str, Any]:
    """Everything countable about a batch, as plain JSON types; what is done already counts as nothing."""
    board = Board(plan)
    board.look()
    todo = [unit for unit in plan.units.values() if unit.name not in board.done]
    device = pick_device(plan.jobs.device)
    speed, workers = measured_flops(device), plan.jobs.executor.num_workers
    runs = [count(unit.request.config, None, unit.request.device) for unit in todo if unit.kind == "run"]
    flops = {kind: sum(flops_of(unit) for unit in todo if unit.kind == kind) for kind in ("shard", "probe")}
    seconds = {"runs": sum(sum(each["seconds"].values()) for each in runs)}
    seconds |= {f"{kind}s": value / speed for kind, value in flops.items()}
    disk = {"runs": sum(each["disk"]["model"] for each in runs), "shards": sum(map(shard_bytes, todo))}
    return {
        "output": str(plan.folder.path),
        "models": len(plan.subjects),
        "protocols": len(plan.jobs.protocols),
        "units": {kind: sum(unit.kind == kind for unit in todo) for kind in KINDS},
        "done": len(board.done),
        "images": sum(unit.num_images for unit in todo if unit.kind == "shard"),
        "rows": int(sum(unit.rows for unit in todo)),
        "executor": plan.jobs.executor.name,
        "workers": workers,
        "device": str(device),
        "seconds": {name: value / workers for name, value in seconds.items()},
        "disk": disk,
    }


def flops_of(unit: Unit) -> float:
    """Floating-point operations of the network rows of a unit."""
    source = unit.draw.comparison.original if unit.kind == "shard" else unit.original
    return unit.rows * row_flops(source)


def row_flops(model: str) -> float:
    """Of one row of a model."""
    return forward_flops(meta_transformer(described(transformer_config(model))))


def shard_bytes(unit: Unit) -> int:
    """Features of the images of a shard."""
    if not isinstance(unit, ShardUnit):
        return 0
    asked = unit.draw.comparison
    if asked.protocol.features == INCEPTION:
        return unit.num_images * INCEPTION_FEATURES * BYTES
    own = asked.protocol.classifier == OWN_CLASSIFIER
    name = (
        read_json(classifier_dir(asked.original) / "config.json")["architecture"] if own else asked.protocol.classifier
    )
    return unit.num_images * num_features(name) * BYTES


@cache
def num_features(classifier: str) -> int:
    """Dimension of the penultimate features of a timm classifier."""
    import timm

    with torch.device("meta"):
        return timm.create_model(classifier).num_features


def estimate_text(found: dict[str, Any]) -> str:
    """An estimate for a terminal."""
    units = ", ".join(f"{kind}s {number}" for kind, number in found["units"].items() if number)
    seconds = ", ".join(f"{name} {duration(value)}" for name, value in found["seconds"].items() if value)
    models, protocols = counted(found["models"], "model"), counted(found["protocols"], "protocol")
    where = f"{counted(found['workers'], 'worker')} ({found['executor']}) on {found['device']}"
    disk = ", ".join(f"{name} {gib(value)}" for name, value in found["disk"].items() if value)
    total = duration(sum(found["seconds"].values()))
    return "\n".join(
        [
            f"batch      {models} under {protocols}, in {found['output']}",
            f"to do      {units or 'nothing'} ({counted(found['done'], 'unit')} done)",
            f"images     {found['images']:,}",
            f"rows       {found['rows']:,} (forward passes of one image; backward counted as two)",
            f"disk       {disk or 'nothing'}",
            f"time       {explained(f'about {total} with {where}, {IDLE}', seconds)}",
            "An attack counts as the images it is measured on; one that trains takes longer.",
        ]
    )
