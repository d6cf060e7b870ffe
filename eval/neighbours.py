"""The retained classes nearest to the erased one, and how well they survive."""

from collections.abc import Mapping, Sequence
from typing import Any

from .values import share

Scores = Mapping[str, Mapping[str, Any]]  # values of one model by name, as JSON


def nearest_classes(original: Scores, *, count: int) -> list[int]:
    """Retained classes that the classifier comes closest to seeing in the original model's images of each forget class.

    Nearest first, forget classes in turn, without repeats; empty when the appearance was not measured.
    """
    per_class = original.get("erased_top_share", {}).get("detail", {}).get("per_class", {})
    ranked = [entry["nearest"][:count] for entry in per_class.values()]
    in_turn = [ranks[place] for place in range(count) for ranks in ranked if place < len(ranks)]
    return list(dict.fromkeys(in_turn))


def neighbour_accuracy(scores: Scores, neighbours: Sequence[int]) -> dict[str, Any]:
    """Share of the neighbours' images that the classifier recognises, as an entry of the record."""
    per_class = scores.get("retain_accuracy", {}).get("detail", {}).get("per_class", {})
    entries = [per_class[str(label)] for label in neighbours if str(label) in per_class]
    hits = sum(round(entry["value"] * entry["n"]) for entry in entries)
    return share(hits, sum(entry["n"] for entry in entries)).to_dict()
