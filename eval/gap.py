"""Gap to retrain: how far an erased model lies from one that never saw the class, over all scores and probes.

The mean absolute difference that tables of machine unlearning call the average gap (arXiv 2310.12508).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .by_class import rows_by_class
from .metric import displays, title
from .words import Record, class_name

PROBE = "probes."  # before the name of a probe among the names of a gap


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A mean absolute difference and the signed differences that it is over; 0 is the other model itself."""

    value: float
    differences: Mapping[str, float]


def gap_between(values: Mapping[str, float], reference: Mapping[str, float]) -> Gap | None:
    """mean_k |values[k] - reference[k]| over the names k that both hold; None where they share none.

    All values are shares in [0, 1], so that each counts alike and the mean is one too.
    """
    differences = {name: value - reference[name] for name, value in values.items() if name in reference}
    if not differences:
        return None
    return Gap(value=sum(map(abs, differences.values())) / len(differences), differences=differences)


def gap_to_retrain(record: Record, subject: str = "erased") -> Gap | None:
    """Gap of one model of a record to the retrained one; None for a record without a retrained model."""
    return gap_between(shares(record, subject), shares(record, "retrained"))


def shares(record: Record, subject: str) -> dict[str, float]:
    """Every probe on every erased class, and every score that is a share of which more or less is better, by name.

    Distances and bits have no unit in common with shares. A share without a better direction describes what took the
    place of the class, which a replacement decides and not how well the class is gone.
    """
    known: Mapping[str, Mapping[str, Any]] = record.get(subject, {})
    wanted = [key for key, show in displays().items() if show.unit == "share" and show.better != "neither"]
    found = {key: known[key]["value"] for key in wanted if key in known}
    for name in record["probes"]:
        attacked = rows_by_class(record, name)
        for label, rows in attacked.items():
            about = f": {class_name(record, label)}" if len(attacked) > 1 else ""
            found[f"{PROBE}{name}{about}"] = rows[subject]["value"] if subject in rows else None
    return {name: value for name, value in found.items() if value is not None}


def part_name(name: str, feature_space: str) -> str:
    """One part of a gap in words: the title of a score, or ``attack: relearning``."""
    probe, _, about = name.removeprefix(PROBE).partition(": ")
    if probe == name:
        return title(name, feature_space)
    return f"attack: {probe.replace('_', ' ')}{f', {about}' if about else ''}"
