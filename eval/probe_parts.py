"""The report's section on attacks as plain data: what was tried, what came back on every model, and what it means."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pipelines.text import listed

from .by_class import Rows, came_back, covers_all, rows_by_class
from .gap import gap_to_retrain, part_name, shares
from .pictures import inlined
from .probe import ProbeResult, probe_names
from .probe_words import MEANINGS, NO_FLOOR, caveats, plain_words
from .recovery import AVOIDED, NO_VERDICT, WEAKENED, curve_of, is_telling, recovery, steps_to_half, verdict
from .values import difference
from .words import (
    Record,
    attacked_name,
    behind,
    change,
    class_name,
    interval,
    number,
    quoted_forget_names,
    with_interval,
)

STRIP_IMAGES = 6
NAMED_CLASSES = 5  # at most, of several that were erased
SUBJECTS = {
    "original": "Original model",
    "embedding_reset": "Embedding reset (trivial baseline)",
    "retrained": "Retrained without the class (floor)",
    "erased": "Erased model",
    "control": "Erased model, retained class “{control}”",
}
RELEARNED = ("embedding_reset", "retrained", "erased")  # subjects without the class, which an attack may bring back


def attacks_view(record: Record, probes: Mapping[str, Mapping[str, ProbeResult]], *, scale: float) -> dict[str, Any]:
    """Everything that the section says; empty for a record without an attack. ``probes`` give the pictures."""
    found, several = record["probes"], len(record["forget_classes"]) > 1
    if not found:
        return {}
    outcomes = {name: recovery(rows) for name, rows in found.items()}
    verdicts = {name: verdict(name, outcome) for name, outcome in outcomes.items()}
    return {
        "classes": f"{'Are' if several else 'Is'} {quoted_forget_names(record)}",
        "several": several and all(covers_all(record, name) for name in found),
        "headline": headline({name: [*rows_by_class(record, name).values()] for name in found}, outcomes, verdicts),
        "strongest": strongest(record, {name: outcomes[name] for name in telling(verdicts)}),
        "unattacked": unattacked(record),
        "left": len(set(probe_names()) - set(found)),
        "floor": floor_words(found),
        "control": control_name(record, next(iter(found.values()))),
        "meanings": [(word, meanings(outcomes.values())[word]) for word in MEANINGS if word in verdicts.values()],
        "bounds": (number(WEAKENED, "share"), number(AVOIDED, "share")),
        "cards": [
            card(record, name, outcomes[name], verdicts[name], pictures=probes.get(name, {}), scale=scale)
            for name in found
        ],
    }


def unattacked(record: Record) -> list[str]:
    """How often the erased and the retrained model give the class under its own label; empty where not measured."""
    entries = (record.get(who, {}).get("forget_accuracy") for who in ("erased", "retrained"))
    return [with_interval(entry, "share") if entry else "" for entry in entries]


def control_name(record: Record, rows: Rows) -> str:
    """The retained class that was attacked as control; empty where none was."""
    return class_name(record, rows["control"]["detail"]["class_label"]) if "control" in rows else ""


def class_words(record: Record, name: str) -> str:
    """Which of several erased classes an attack is shown for, and the others' shares; empty where there is one."""
    if not (attacked := attacked_name(record, record["probes"][name])):
        return ""
    if not covers_all(record, name):
        return f"Of the erased classes “{attacked}” alone was attacked."
    _, *others = sorted(rows_by_class(record, name).items(), key=lambda each: came_back(name, each[1]), reverse=True)
    shares = [f"“{class_name(record, label)}” {raw_words(rows)}" for label, rows in others[:NAMED_CLASSES]]
    more = [f"{len(others) - len(shares)} more"] if len(others) > len(shares) else []
    return f"Shown is “{attacked}”, of which most came back; of the others: {listed([*shares, *more])}."


def telling(verdicts: Mapping[str, str]) -> list[str]:
    """The attacks that have a verdict."""
    return [name for name, word in verdicts.items() if word not in ("not measured", NO_VERDICT)]


def headline(
    found: Mapping[str, Sequence[Rows]], outcomes: Mapping[str, Mapping[str, Any]], verdicts: Mapping[str, str]
) -> str:
    """All attacks in one or two sentences; ``found`` holds the entries of each on every erased class."""
    beside = {
        name: classes for name, classes in found.items() if None not in (outcomes[name]["floor"], outcomes[name]["raw"])
    }
    if not beside:
        return without_floor({name: outcomes[name] for name in telling(verdicts)}, made=len(found))
    excess = [[difference(rows["erased"], rows["retrained"]) for rows in classes] for classes in beside.values()]
    no_more = sum(all(each["low"] <= 0 for each in classes) for classes in excess)
    less = sum(any(each["high"] < 0 for each in classes) for classes in excess)
    sentence = f"{no_more} of {attacks(len(beside))} brought back no more than a model that never saw the class gives."
    if less:
        sentence += f" With {less} of them it was clearly less: there the class is suppressed rather than absent."
    weak = sum(any(caveats(name, rows) for rows in classes) for name, classes in beside.items())
    return sentence + (
        f" {weak} of the {attacks(len(beside))} tell little, for reasons given with each." if weak else ""
    )


def without_floor(measured: Mapping[str, Mapping[str, Any]], *, made: int) -> str:
    """The same for attacks that were made on no retrained model; ``measured`` is what those recovered that tell."""
    if not measured:
        return "None of the attacks made so far tells anything without a model that was retrained without the class."
    if len(measured) == 1:
        share = number(next(iter(measured.values()))["raw"], "share")
        which = "The one attack made so far" if made == 1 else f"Of {made} attacks one tells by itself: it"
        return f"{which} brought the class back in {share} of images."
    few = sum(outcome["value"] <= WEAKENED for outcome in measured.values())
    many, more_than = len(measured) - few or "none", f"in more than {number(WEAKENED, 'share')} of images"
    if made == len(measured):
        return f"{str(many).capitalize()} of {attacks(made)} brought the class back {more_than}."
    return f"Of {attacks(made)} {len(measured)} tell by themselves; {many} of those brought the class back {more_than}."


def attacks(count: int) -> str:
    """A number of attacks."""
    return f"{count} attack" + "s" * (count != 1)


def strongest(record: Record, outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """The attack that recovered most, in one sentence; empty where there is no choice, or none recovered anything."""
    known = {name: outcome["value"] for name, outcome in outcomes.items() if outcome["value"] is not None}
    if len(known) < 2 or max(known.values()) <= 0:
        return ""
    name = max(known, key=known.__getitem__)
    title = plain_words(name, num_classes=len(record["class_names"])).title
    rows = record["probes"][name]
    return f"By recovery the strongest is “{behind(title, attacked_name(record, rows))}”: {raw_words(rows)}."


def raw_words(rows: Rows) -> str:
    """The share that came back on the erased model with its interval, and the floor's."""
    text, floor = with_interval(rows["erased"], "share"), rows.get("retrained")
    return f"{text}, retrained {with_interval(floor, 'share')}" if floor else text


def recovery_words(name: str, outcome: Mapping[str, Any]) -> str:
    """Recovery in percent, signed; empty without a verdict, where it is a share of what is nearly nothing."""
    if outcome["value"] is None or not is_telling(name, outcome):
        return ""
    return number(outcome["value"], "share").replace("-", "\N{MINUS SIGN}")


def attack_lines(record: Record, name: str) -> list[str]:
    """An attack for a terminal: verdict and recovery, then each model's share and how soon half was back."""
    rows = record["probes"][name]
    outcome = recovery(rows)
    recovered = recovery_words(name, outcome)
    told = f"{verdict(name, outcome)}, recovery {recovered}" if recovered else verdict(name, outcome)
    lines = [f"{name.replace('_', ' ')}: {told}"]
    for who, entry in rows.items():
        lines.append(", ".join(filter(None, [f"  {who} {with_interval(entry, 'share')}", steps_words(who, rows)])))
    return [*lines, *(f"  {words}" for words in [class_words(record, name)] if words)]


def floor_words(found: Mapping[str, Rows]) -> str:
    """What recovery is measured from: the retrained model, nothing, or each for some attacks."""
    bare = [name.replace("_", " ") for name, rows in found.items() if "retrained" not in rows]
    with_floor = (
        "Recovery is 0 % where no more came back than a model retrained without the class gives, and 100 % where all "
        "of the original did; below 0 % even less came back than that."
    )
    without = (
        "No model retrained without the class was attacked{which}, so that there is no floor: recovery is the share "
        "itself, and what a model that never saw the class would give is not known."
    )
    if not bare:
        return with_floor
    if len(bare) == len(found):
        return without.format(which="")
    return f"{with_floor} {without.format(which=f' by {listed(bare)}')}"


def meanings(outcomes: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
    """What the verdicts on some attacks mean."""
    return NO_FLOOR if all(outcome["floor"] is None for outcome in outcomes) else MEANINGS


def card(
    record: Record,
    name: str,
    outcome: Mapping[str, Any],
    word: str,
    *,
    pictures: Mapping[str, ProbeResult],
    scale: float,
) -> dict[str, Any]:
    """One attack."""
    rows, words = record["probes"][name], plain_words(name, num_classes=len(record["class_names"]))
    control = control_name(record, rows)
    budget = record.get("attacks", {}).get(name, {}).get("budget", {}).get("name", "")
    subjects = [
        {
            **subject(who, rows, scale=scale, pictures=pictures[who].pictures if who in pictures else None),
            "name": label.format(control=control),
        }
        for who, label in SUBJECTS.items()
        if who in rows
    ]
    return {
        "name": name.replace("_", " "),
        "title": words.title,
        "does": words.does,
        "about": attacked_name(record, rows),
        "verdict": word,
        "meaning": meanings([outcome])[word],
        "caveats": caveats(name, rows),
        "by_class": class_words(record, name),
        "recovery": recovery_words(name, outcome),
        "raw": [with_interval(rows[who], "share") if who in rows else "" for who in ("erased", "retrained")],
        "floor": outcome["floor"],
        "budget": budget,
        "strongest": rows["erased"]["detail"].get("strongest", ""),
        "step": rows["erased"]["detail"].get("step"),
        "subjects": subjects,
    }


def subject(who: str, rows: Rows, *, scale: float, pictures: Tensor | None) -> dict[str, Any]:
    """One model under attack: its share with the interval, how it depends on the steps, what it drew."""
    entry = rows[who]
    shown = pictures is not None and len(pictures) > 0
    return {
        "erased": who == "erased",
        "value": entry["value"] or 0,
        "low": entry["low"],
        "high": entry["high"],
        "text": number(entry["value"], "share"),
        "interval": interval(entry, "share"),
        "aside": steps_words(who, rows),
        "picture": inlined(pictures[:STRIP_IMAGES], columns=STRIP_IMAGES, scale=scale) if shown else None,
    }


def steps_words(who: str, rows: Rows) -> str:
    """How one model's share depends on the steps of the attack; empty where it has none, or nothing to bring back."""
    half = half_words(rows[who], of=rows["original"]["value"]) if who in RELEARNED else ""
    return later_words(rows[who]) or half


def later_words(entry: Mapping[str, Any]) -> str:
    """What a completion comes to where the model takes over later; empty for other attacks."""
    _, *later = entry["detail"].get("by_steps", [None])
    return ", ".join(f"from step {step}: {number(share, 'share')}" for step, share in later)


def half_words(entry: Mapping[str, Any], *, of: float | None) -> str:
    """After how many steps half of the original's accuracy was back; empty for an attack without a curve."""
    curve: Sequence[Sequence[float]] = curve_of(entry)
    if not curve or of is None:
        return ""
    steps, never = steps_to_half(curve, of=of), f"not half in {curve[-1][0]} steps"
    return f"half of the original after about {steps:.0f} steps" if steps is not None else never


def gap_view(record: Record) -> dict[str, Any]:
    """How far the erased and the original model lie from the retrained one; empty without a retrained model."""
    gap, before = gap_to_retrain(record), gap_to_retrain(record, "original")
    if gap is None or before is None:
        return {}
    values, reference = shares(record, "erased"), shares(record, "retrained")
    order = sorted(gap.differences, key=lambda name: -abs(gap.differences[name]))
    rows = [
        {
            "name": part_name(name, record["feature_space"]),
            "erased": number(values[name], "share"),
            "retrained": number(reference[name], "share"),
            "change": change({"value": gap.differences[name]}, "share"),
        }
        for name in order
    ]
    return {"value": points(gap.value), "original": points(before.value), "rows": rows}


def points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:.1f} points"
