"""An attack on several erased classes: made on each by itself, and reported for the one of which most came back."""

import math
from collections.abc import Mapping
from typing import Any

from .probe import ProbeResult
from .recovery import Entry, is_telling, recovery
from .words import Record

Rows = Mapping[str, Entry]  # entries of one attack on one class by subject


def add_attack(record: dict[str, Any], name: str, results: Mapping[int, Mapping[str, ProbeResult]]) -> int:
    """Put the results of an attack by erased class and subject into a record; returns the class of the reported ones.

    ``probes`` and ``recovery`` report the class of which most came back; ``by_class`` holds the entries of each where
    there are several.
    """
    entries = {label: {who: each.to_dict() for who, each in found.items()} for label, found in results.items()}
    reported = max(entries, key=lambda label: came_back(name, entries[label]))
    record["probes"][name] = entries[reported]
    record.setdefault("recovery", {})[name] = recovery(entries[reported])
    if len(entries) > 1:
        record.setdefault("by_class", {})[name] = {str(label): rows for label, rows in entries.items()}
    return reported


def came_back(name: str, rows: Rows) -> tuple[bool, float, float]:
    """What orders classes under an attack: whether it tells anything of one, recovery, share; -inf for what is None."""
    found = recovery(rows)
    value, raw = (-math.inf if found[key] is None else found[key] for key in ("value", "raw"))
    return is_telling(name, found), value, raw


def rows_by_class(record: Record, name: str) -> dict[str, Rows]:
    """The entries of an attack by erased class, the reported one first."""
    reported: Rows = record["probes"][name]
    first = str(reported["erased"].get("detail", {}).get("class_label", ""))
    return {first: reported, **record.get("by_class", {}).get(name, {})}


def covers_all(record: Record, name: str) -> bool:
    """Whether an attack was made on every erased class of a record."""
    if name not in record["probes"]:
        return False
    classes = record["forget_classes"]
    return len(classes) == 1 or {*map(str, classes)} == record.get("by_class", {}).get(name, {}).keys()
