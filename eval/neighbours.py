"""The classes nearest to the erased one: chosen ahead or by the classifier, and how well they survive."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from torch import Tensor

from pipelines.classes import ClassNames

from .values import share

Scores = Mapping[str, Mapping[str, Any]]  # values of one model by name, as JSON


def related_classes(
    names: ClassNames,
    forget_classes: Sequence[int],
    *,
    count: int,
    removed: Collection[int],
    label_rows: Tensor | None,
) -> list[int]:
    """Up to ``count`` retained classes that are related to the forget classes, known without drawing an image.

    Two rankings take turns: classes whose names share words, the model's own synonyms included, and, where
    ``label_rows`` (num_classes + 1, D) are at hand, classes with the nearest label rows. Forget classes take turns too;
    ``removed`` are the classes that cannot be chosen.
    """
    rankings = []
    for label in forget_classes:
        rankings.append(names.related(label, limit=len(names)))
        if label_rows is not None:
            rankings.append(nearest_rows(label_rows, label))
    in_turn = chain.from_iterable(zip_longest(*rankings))
    kept = [label for label in dict.fromkeys(in_turn) if label is not None and label not in removed]
    return kept[:count]


def nearest_rows(label_rows: Tensor, label: int) -> list[int]:
    """All other classes by the Euclidean distance of their label rows, the nearest first; the null row is no class."""
    rows = label_rows[:-1].double()
    order = (rows - rows[label]).norm(dim=1).argsort(stable=True).tolist()
    return [other for other in order if other != label]


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
