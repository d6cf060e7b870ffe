"""How much of an erased class an attack brought back, in numbers and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from .probe import needs_floor
from .values import difference

Entry = Mapping[str, Any]  # of ProbeResult.to_dict

AVOIDED, WEAKENED = 0.5, 0.1  # recovery from which the class was only avoided, or only weakened
MOSTLY = 0.5  # share of its images in which a model that knows the class has to show it
NO_VERDICT = "no verdict"


def recovery(subjects: Mapping[str, Entry]) -> dict[str, Any]:
    """Recovery of one probe from its subjects' entries.

    With a retrained model as floor it is (attacked - floor) / (original - floor), signed: below 0 the class is
    suppressed more than a model that never saw it would; None where the floor is as high as the original. Without a
    floor it is the raw share.
    """
    attacked, original = subjects["erased"]["value"], subjects["original"]["value"]
    retrained = floor_of(subjects)
    floor = None if retrained is None else retrained["value"]
    found: dict[str, Any] = {"raw": attacked, "low": subjects["erased"]["low"], "high": subjects["erased"]["high"]}
    found |= {"original": original, "floor": floor, "value": None}
    found["tells_apart"] = tells_apart(subjects["original"], retrained)
    if attacked is None or original is None:
        return found
    if floor is None:
        found["value"] = attacked
    elif original > floor:
        found["value"] = (attacked - floor) / (original - floor)
    for name in ("steps_to_half", "retrained_steps_to_half"):
        subject = subjects.get("retrained" if name.startswith("retrained") else "erased", {})
        curve = curve_of(subject)
        if curve:
            found[name] = steps_to_half(curve, of=original)
    return found


def floor_of(subjects: Mapping[str, Entry]) -> Entry | None:
    """The entry of the retrained model; None where there is no such model, or no value of it."""
    found = subjects.get("retrained")
    return None if found is None or found["value"] is None else found


def curve_of(entry: Entry) -> list[Sequence[float]]:
    """Accuracy by step that a probe recorded; the best of several curves; empty without one."""
    detail = entry.get("detail", {})
    if detail.get("curves"):
        return max(detail["curves"], key=lambda curve: curve[-1][1])
    return list(detail.get("curve", ()))


def steps_to_half(curve: Sequence[Sequence[float]], *, of: float) -> float | None:
    """Steps until the accuracy is half of ``of``, between two counted steps by a straight line; None if it never is."""
    before, low = 0.0, 0.0
    for step, accuracy in curve:
        if accuracy >= of / 2:
            share = 1.0 if accuracy == low else max(0.0, (of / 2 - low) / (accuracy - low))
            return before + share * (step - before)
        before, low = float(step), accuracy
    return None


def verdict(name: str, recovered: Mapping[str, Any]) -> str:
    """One word for the probe of that name: ``avoided`` (the class came back), ``weakened`` or ``removed``.

    ``no verdict`` where the attack does not tell models apart.
    """
    if recovered["raw"] is None or recovered["original"] is None:
        return "not measured"
    if not is_telling(name, recovered):
        return NO_VERDICT
    return "avoided" if recovered["value"] > AVOIDED else "weakened" if recovered["value"] > WEAKENED else "removed"


def is_telling(name: str, recovered: Mapping[str, Any]) -> bool:
    """Whether an outcome says what was left: the attack tells models apart, and without a floor does not teach any."""
    return recovered["tells_apart"] and not (recovered["floor"] is None and needs_floor(name))


def tells_apart(original: Entry, floor: Entry | None) -> bool:
    """Whether the original gives the class, and a model that never saw it far less.

    That one at most half as much, and less by more than chance; without it the original in half of the images.
    """
    if original["value"] is None:
        return False
    if floor is None:
        return original["value"] >= MOSTLY
    lead = difference(original, floor)
    return (lead["value"] if lead["low"] is None else lead["low"]) > 0 and floor["value"] <= original["value"] / 2
