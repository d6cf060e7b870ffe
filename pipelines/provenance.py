"""Where a model comes from: the chain of erasures between the base model and it.

A provenance is plain JSON. That of a base model is what its files say and its ``source``; that of an erased model holds
the configuration as ``erased``, the circumstances as ``made``, and as ``original`` the provenance of what it was erased
from.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Provenance = Mapping[str, Any]

MARK = " (erased)"  # behind every name of an erased class in a saved ``model_index.json``


def erasures(provenance: Provenance) -> list[Provenance]:
    """The provenance after each erasure, the first erasure first; none for a base model."""
    found = []
    while "erased" in provenance:
        found.append(provenance)
        provenance = provenance.get("original", {})
    return found[::-1]


def base_of(provenance: Provenance) -> Provenance:
    """The provenance of the model before any erasure."""
    while "original" in provenance:
        provenance = provenance["original"]
    return provenance


def erased_classes(provenance: Provenance) -> tuple[int, ...]:
    """Every class that was erased on the way to a model, in index order."""
    return tuple(sorted({label for each in erasures(provenance) for label in each["erased"]["forget_classes"]}))


def earlier_classes(provenance: Provenance, forget_classes: Iterable[int]) -> tuple[int, ...]:
    """The classes that a model of this provenance lost before ``forget_classes`` are erased from it."""
    return tuple(label for label in erased_classes(provenance) if label not in set(forget_classes))


def retained_classes(provenance: Provenance, forget_classes: Iterable[int], *, num_classes: int) -> list[int]:
    """The classes that a model of this provenance still has once ``forget_classes`` are erased from it."""
    removed = {*forget_classes, *erased_classes(provenance)}
    return [index for index in range(num_classes) if index not in removed]


def marked(labels: Sequence[str], erased: Iterable[int]) -> list[str]:
    """Class labels in which every name of an erased class says so; ``unmarked`` is the exact inverse."""
    gone = set(erased)
    return [
        ",".join(name + MARK for name in label.split(",")) if index in gone else label
        for index, label in enumerate(labels)
    ]


def unmarked(labels: Sequence[str], erased: Iterable[int]) -> list[str]:
    """The labels as the base model has them."""
    gone = set(erased)
    return [
        ",".join(name.removesuffix(MARK) for name in label.split(",")) if index in gone else label
        for index, label in enumerate(labels)
    ]
