"""How soon fine-tuning brings a class back: by the strongest of the attacks at each step, and by each attack alone.

Steps are those until half of what the original draws is back, between two counted steps by a straight line.
"""

import math
from collections.abc import Iterable, Mapping

from benchmarks.probe_summary import Line
from eval.probe import AMOUNTS
from eval.recovery import steps_to_half

Curve = list[tuple[int, float]]  # share by steps
AMONG_OTHERS = next(each.name for each in AMOUNTS["full"].relearnings if each.num_others)
NEVER = "never"  # half of the class did not come back
MODELS = ("erased", "embedding_reset", "retrained")  # in the order of a table's cell


def curves_of(line: Line, who: str) -> Mapping[str, Curve]:
    """The share by step of every way of relearning."""
    return line["probes"]["relearning"][who]["detail"]["attacks"]


def strongest_curve(line: Line, who: str) -> Curve:
    """The best share that any of the relearning attacks reached by each counted step."""
    return best_by_step(curves_of(line, who).values())


def among_others(line: Line, who: str) -> Curve:
    """The share by step where images of the class are mixed among those of other classes."""
    return curves_of(line, who)[AMONG_OTHERS]


def best_by_step(curves: Iterable[Curve]) -> Curve:
    """The best share of several curves at each of their steps."""
    return [(points[0][0], max(share for _, share in points)) for points in zip(*curves, strict=True)]


def steps_ratio(line: Line) -> float | None:
    """Steps until half of the class is back under the strongest attack, in those of the retrained model.

    Infinite where half never came back; 0 where it did, and never to the retrained model; None without that one.
    """
    if "retrained" not in line["scores"]:
        return None
    return ratio_of_curves(line, strongest_curve(line, "erased"), strongest_curve(line, "retrained"))


def ratio_by_attack(line: Line) -> dict[str, float]:
    """The same for each attack alone; empty without a retrained model."""
    if "retrained" not in line["scores"]:
        return {}
    erased, retrained = curves_of(line, "erased"), curves_of(line, "retrained")
    return {name: ratio_of_curves(line, erased[name], retrained[name]) for name in erased}


def ratio_of_curves(line: Line, erased: Curve, retrained: Curve) -> float:
    """Steps to half of one curve in those of another."""
    steps, floor = half(line, erased), half(line, retrained)
    if steps is None:
        return math.inf
    return 0.0 if floor is None else steps / floor


def half(line: Line, curve: Curve) -> float | None:
    """Steps until half of the class is back, None if it never is."""
    return steps_to_half(curve, of=line["probes"]["relearning"]["original"]["value"])


def pace_rows(lines: Mapping[int, Line]) -> list[list[str]]:
    """Steps to half by attack and class, ``erased / row reset / never saw it`` as far as there are such models."""
    names = dict.fromkeys(name for line in lines.values() for name in curves_of(line, "erased"))
    return [[name, *(pace(line, name) for line in lines.values())] for name in names]


def pace(line: Line, name: str) -> str:
    """``15 / 27 / 80``; ``> 100`` where half is not back at the last step that was counted."""
    shown = [curves_of(line, who)[name] for who in MODELS if who in line["probes"]["relearning"]]
    return " / ".join(steps_in_words(half(line, curve), last=curve[-1][0]) for curve in shown)


def steps_in_words(steps: float | None, *, last: int, digits: int = 0) -> str:
    """Steps with some digits, or that there were not enough."""
    return f"> {last}" if steps is None else f"{steps:.{digits}f}"


def ratio_in_words(ratio: float | str | None) -> str:
    """``0.92``; ``never`` where half of the class did not come back, nothing without a retrained model."""
    if ratio is None or isinstance(ratio, str):
        return ratio or ""
    return NEVER if ratio == math.inf else f"{ratio:.2f}"
