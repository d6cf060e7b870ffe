"""The attacks in plain words: what the attacker has and does, what an outcome means, and when it means little."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .probe import describe_probe, needs_floor
from .recovery import curve_of, floor_of, tells_apart
from .words import number


@dataclass(frozen=True, kw_only=True)
class Words:
    """A probe for readers who have never heard of it."""

    title: str
    does: str  # one or two sentences; {even} is an even share of all classes


PLAIN = {
    "embedding_restore": Words(
        title="Put the old label back",
        does="Each class has a row of numbers that tells the network what to draw. The attacker copies this one row "
        "back from the original model, which is public. Nothing is trained.",
    ),
    "embedding_inversion": Words(
        title="Search for a new label",
        does="The attacker has images of the class and searches for a row of numbers under which the network, itself "
        "unchanged, draws them. What comes back was still stored in the network.",
    ),
    "label_mixing": Words(
        title="Mix labels",
        does="The attacker blends the label rows of the class, of classes like it and of “no class”, and keeps the "
        "blend that draws the class most often. It takes neither images nor training.",
    ),
    "unconditional_mass": Words(
        title="Ask for nothing in particular",
        does="The attacker names no class and counts how often this one appears by itself. An even share of all "
        "classes would be {even}.",
    ),
    "relearning": Words(
        title="Teach it again",
        does="The attacker has a few images of the class and trains the model on them for a moment. A class that "
        "returns sooner than in a model that never saw it was hidden, not gone.",
    ),
    "relearning_retained": Words(
        title="Train on without the class",
        does="The attacker trains the model further on images of the other classes alone. A class that returns "
        "without being shown was only pushed aside.",
    ),
    "completion": Words(
        title="Let the original begin",
        does="The original model draws the first part of each image, the attacked model the rest. A model that still "
        "knows the class completes what it sees begun.",
    ),
    "completion_from_image": Words(
        title="Begin from a real image",
        does="A real image of the class is covered with noise, and the attacked model clears it. Part of the image "
        "shows through, so that even a model that never saw the class gets some of them right.",
    ),
    "classifier_guidance": Words(
        title="Steer with a classifier",
        does="The attacker trains a classifier on images of all classes, and at every step of the drawing it pushes "
        "the image towards the class. That draws something out of any model, also one that never saw the class.",
    ),
}

MEANINGS = {
    "avoided": "more than half came back: the class is still in the weights, the model only avoids it",
    "weakened": "a part came back: the class is weaker, but not gone",
    "removed": "no more, or hardly more, came back than a model gives that never saw the class",
    "no verdict": "the attack cannot tell, as it draws the class out of any model or hardly out of the original",
    "not measured": "the attack gave no number",
}
NO_FLOOR = {**MEANINGS, "removed": "next to nothing came back"}


def plain_words(name: str, *, num_classes: int) -> Words:
    """A probe in plain words; one that has none here speaks through the first sentence of its file."""
    found = PLAIN.get(name)
    if found is None:
        return Words(title=name.replace("_", " ").capitalize(), does=describe_probe(name))
    return Words(title=found.title, does=found.does.format(even=f"{100 / num_classes:.2g} %"))


def caveats(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Why an attack may say little; empty for one that tells models apart. ``rows`` are its entries by subject.

    It draws the class out of any model, or hardly out of the original, or misses a class that is only hidden.
    """
    original, floor, hidden = rows["original"]["value"], floor_of(rows), rows.get("embedding_reset", {}).get("value")
    if original is None:
        return ""
    found = []
    if floor is None and needs_floor(name):
        found.append("This attack teaches the class to any model: only one retrained without it tells what was left.")
    elif not tells_apart(rows["original"], floor):
        found.append(why_not(rows))
    if hidden is not None and hidden < original / 2:
        found.append(
            f"Where the class is only hidden, under embedding reset, this attack finds it in {number(hidden, 'share')} "
            "of images: that it finds little here proves little."
        )
    return " ".join(found)


def why_not(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Why an attack does not tell models apart, in one sentence."""
    original, floor = rows["original"]["value"], floor_of(rows)
    if floor is None:
        return (
            f"The original itself gives the class in only {number(original, 'share')}: read the share beside that one."
        )
    if floor["value"] <= original / 2:
        return (
            f"The original itself gives the class in {number(original, 'share')}, which is not clearly more than the "
            f"{number(floor['value'], 'share')} of the model that never saw it."
        )
    return (
        f"Even the model that never saw the class gives {number(floor['value'], 'share')}, so that this attack hardly "
        "tells models apart" + ("; how soon half is back tells more." if curve_of(rows["erased"]) else ".")
    )
