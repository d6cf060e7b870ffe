"""Pictures and report of a scored run from its record: images are drawn again, no score is measured again."""

from collections.abc import Mapping
from typing import Any

import torch

from eval.features import Scorer
from eval.probe import Budget, ProbeResult, run_probe
from eval.protocol import Protocol
from pipelines.model import DiT

from ..config import ErasureConfig
from ..rundir import RunDir
from .outcomes import kept_results
from .scoring import PROBE, control_class, show

NUM_PICTURES = 8  # of each subject of a probe


def redraw(
    models: Mapping[str, DiT],
    record: Mapping[str, Any],
    config: ErasureConfig,
    folder: RunDir,
    *,
    protocol: Protocol,
    scorer: Scorer,
    command: str,
) -> None:
    """Write ``samples/`` and ``report.html``; ``command`` is shown for a record that does not know its own."""
    found = pictured_probes(models, record, protocol=protocol, scorer=scorer)
    show(models, record, found, config, folder, protocol=protocol, command=record.get("command", command))


def pictured_probes(
    models: Mapping[str, DiT], record: Mapping[str, Any], *, protocol: Protocol, scorer: Scorer
) -> dict[str, dict[str, ProbeResult]]:
    """The outcomes of a record with pictures: kept ones, those of the row probe drawn again, none for the others."""
    kept = kept_results(record)
    size = models["original"].image_size
    found = {}
    for name, rows in record["probes"].items():
        if name in kept:
            found[name] = kept[name]
            continue
        drawn = {}
        if name == PROBE:
            attacked = rows["erased"]["detail"]["class_label"]
            budget = Budget(original=models["original"], protocol=protocol, scorer=scorer, num_images=NUM_PICTURES)
            drawn = run_probe(PROBE, models["erased"], [attacked], budget, control_class=control_class(record, budget))[
                attacked
            ]
        pictures = {who: result.pictures for who, result in drawn.items()}
        none = torch.empty(0, 3, size, size, dtype=torch.uint8)
        found[name] = {who: ProbeResult(pictures=pictures.get(who, none), **entry) for who, entry in rows.items()}
    return found
