"""Numbers in plain words, the same in reports, tables and model cards."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pipelines.text import listed

from .metric import Unit, displays, title
from .values import difference

Record = Mapping[str, Any]

# What a reader wants to know first; values of other metrics follow in the order of their files.
FIRST = (
    "forget_accuracy",
    "forget_accuracy_any",
    "retain_accuracy",
    "neighbour_accuracy",
    "leakage",
    "frechet",
    "kid",
    "precision",
    "recall",
    "retain_degenerate_rate",
    "forget_degenerate_rate",
    "forget_precision",
)
CAUTION = 0.1  # loss of retain accuracy, or share of blank images, from which forget accuracy does not tell all
COLLAPSED = 0.1  # share of images like real ones of any class below which a label draws nothing


def ordered_keys(record: Record) -> list[str]:
    """Keys of all values of a record, the most telling first."""
    shown = [key for key in displays() if key in record["erased"]]
    return [key for key in FIRST if key in shown] + [key for key in shown if key not in FIRST]


def number(value: float | None, unit: Unit) -> str:
    """One value: shares in percent, distances to three significant digits."""
    if value is None:
        return "not measured"
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "bits":
        return f"{value:.2f} bits"
    return "0" if value == 0 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def interval(entry: Mapping[str, Any], unit: Unit) -> str:
    """The 95 % interval of an entry, e.g. ``0.0 to 0.4 %``; empty where there is none."""
    if entry.get("low") is None:
        return ""
    low, high = number(entry["low"], unit), number(entry["high"], unit)
    return f"{low.removesuffix(' %').removesuffix(' bits')} to {high}"


def with_interval(entry: Mapping[str, Any], unit: Unit) -> str:
    """A value and, where it has one, its interval in brackets."""
    span = interval(entry, unit)
    return number(entry["value"], unit) + (f" ({span})" if span else "")


def change(delta: Mapping[str, Any], unit: Unit) -> str:
    """A signed change; shares change by percentage points."""
    value = delta.get("value")
    if value is None:
        return ""
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "\N{PLUS-MINUS SIGN}"
    size = number(abs(value), unit)
    return sign + (f"{size.removesuffix(' %')} points" if unit == "share" else size)


def verdict(key: str, delta: Mapping[str, Any]) -> str:
    """``better`` or ``worse``, ``no clear change`` where the interval spans 0, ``unchanged`` where nothing moved.

    Nothing without an interval, which leaves open whether a change is more than chance, or where no direction is good.
    """
    better, value = displays()[key].better, delta.get("value")
    if better == "neither" or value is None:
        return ""
    if value == 0:
        return "unchanged"
    if delta.get("low") is None:
        return ""
    if delta["low"] <= 0 <= delta["high"]:
        return "no clear change"
    return "better" if (value < 0) == (better == "lower") else "worse"


def direction(key: str) -> str:
    """``lower is better`` or ``higher is better``; empty where neither is."""
    better = displays()[key].better
    return "" if better == "neither" else f"{better} is better"


def sentence(key: str, record: Record) -> str:
    """One value in a sentence: ``Forget accuracy 0.0 % (was 97.0 %), lower is better``."""
    unit = displays()[key].unit
    now, before = (number(record[model][key]["value"], unit) for model in ("erased", "original"))
    text = f"{title(key, record['feature_space'])} {now} (was {before})"
    return ", ".join(filter(None, [text, direction(key)]))


def class_name(record: Record, class_label: int | str) -> str:
    """A class in words; what is no class label is returned as it is."""
    return record["class_names"][int(class_label)] if str(class_label).isdigit() else str(class_label)


def forget_names(record: Record) -> str:
    """The erased classes in words."""
    return listed([class_name(record, label) for label in record["forget_classes"]])


def attacked_name(record: Record, entries: Record) -> str:
    """The class that an attack with these entries by subject is reported for; empty where one class was erased."""
    return class_name(record, entries["erased"]["detail"]["class_label"]) if len(record["forget_classes"]) > 1 else ""


def behind(text: str, name: str) -> str:
    """A text with a class in brackets, if there is one."""
    return f"{text} ({name})" if name else text


def quoted_forget_names(record: Record) -> str:
    """The erased classes in words, in quotation marks."""
    names = (class_name(record, label) for label in record["forget_classes"])
    return listed([f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}" for name in names])


def model_name(record: Record) -> str:
    """The original model in one word: an embedded name, a hub id, or the last part of a folder."""
    source = str(record["models"]["original"].get("source", "the model"))
    return PurePath(source).name if source.startswith(("/", ".", "~")) else source


def headline(record: Record) -> str:
    """What was done, in plain words: ``three erased from digits``."""
    return f"{forget_names(record)} erased from {model_name(record)}"


def earlier_sentence(label: str, record: Record) -> str:
    """Whether a class that an earlier erasure removed came back: ``Forget accuracy of three, erased before, ...``."""
    entry = record["earlier"][label]
    now, before = (number(entry[model]["value"], "share") for model in ("erased", "original"))
    text = f"Forget accuracy of {class_name(record, label)}, erased before, {now} (was {before})"
    return ", ".join(filter(None, [text, direction("forget_accuracy"), returned(entry)]))


def returned(entry: Mapping[str, Any]) -> str:
    """What became of a class that was erased before: ``came back in part`` where its interval says so."""
    delta = difference(entry["erased"], entry["original"])
    if delta["low"] is None:
        return ""
    return "came back in part" if delta["low"] > 0 else "gone further" if delta["high"] < 0 else "did not come back"


def caution(record: Record) -> str:
    """Why forget accuracy alone does not tell what became of the class, where that is so."""
    loss = -(record["delta"].get("retain_accuracy", {}).get("value") or 0)
    blank = max(record["erased"].get(f"{side}_degenerate_rate", {}).get("value") or 0 for side in ("forget", "retain"))
    if blank >= CAUTION:
        return f"Read this with care: up to {number(blank, 'share')} of the images are blank or unreadable."
    if labels := collapsed(record):
        names = listed([class_name(record, label) for label in labels])
        few = f"under {number(COLLAPSED, 'share')} of the images drawn as {names}"
        return f"Read this with care: {few} look like a real image of any class: collapse."
    if loss >= CAUTION:
        return f"Read this with care: the other classes lost {100 * loss:.0f} points, so damage explains part of it."
    return ""


def collapsed(record: Record) -> list[str]:
    """The erased labels whose images look like real ones before, and hardly any afterwards."""
    before, after = (
        record[model].get("forget_precision", {}).get("detail", {}).get("per_class", {})
        for model in ("original", "erased")
    )
    shares = {label: (before[label]["value"], after[label]["value"]) for label in after if label in before}
    return [label for label, pair in shares.items() if None not in pair and pair[1] < COLLAPSED <= pair[0]]
