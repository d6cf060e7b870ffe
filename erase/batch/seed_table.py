"""The table that papers print: methods in rows, erased classes in columns, mean and standard deviation over seeds."""

import math
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.compare import check_alike
from eval.metric import Better, displays, title
from eval.values import wilson
from eval.words import forget_names, model_name
from pipelines.text import listed

FIRST = ("original", "retrain")  # what methods are measured against: it stands above them and is never the best
RETAINED = "retain_accuracy"
ALLOWED_LOSS = 0.02  # of retain accuracy: a method that certainly loses more is never the best
DAMAGED = "\N{DAGGER}"
SHORT = {"forget_accuracy": "FA", RETAINED: "RA", "neighbour_accuracy": "NA"}
DISTANCE = {"inception": "FID"}  # only Inception features earn this name
NOTHING = "-"
SHORTENED = (lambda path: Path(os.path.normpath(path)).name, os.path.normpath)  # names of a model, the shortest first
MARKS = (
    "\N{DOWNWARDS ARROW} lower is better, \N{UPWARDS ARROW} higher is better",
    "\N{PLUS-MINUS SIGN} standard deviation over seeds",
    f"{NOTHING} not measured",
)
ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}", "neither": ""}

Values = dict[tuple[str, str], list[float]]  # of the seeds, by class and value


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of one method and one class over its seeds."""

    values: tuple[float, ...]  # empty: not measured
    scale: int  # 100 for a share
    digits: int  # behind the point
    is_best: bool = False
    is_damaged: bool = False  # the method lost more of the retained classes than a best one may

    @property
    def mean(self) -> float | None:
        """Mean over the seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the sample of seeds; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        """As a reader sees it: shares in per cent, a dash for nothing."""
        if not self.values:
            return NOTHING
        spread = "" if self.deviation is None else f" \N{PLUS-MINUS SIGN} {self.shown(self.deviation)}"
        return f"{self.shown(self.mean)}{spread}"

    def shown(self, value: float) -> str:
        """A number to the digits of its column."""
        return f"{self.scale * value:.{self.digits}f}"


@dataclass(frozen=True, kw_only=True)
class SeedTable:
    """Cells by row, and what stands above them."""

    caption: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]  # the values of each class
    titles: tuple[str, ...]  # of the keys, short
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]  # name and cells, classes outside, keys inside
    is_judged: bool  # whether the loss of retain accuracy is known, without which nothing is best

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types: every mean and deviation in full precision."""
        places = [(name, key) for name in self.classes for key in self.keys]
        rows = [
            {"method": method, "class": name, "value": key, "mean": cell.mean, "standard_deviation": cell.deviation,
             "seeds": len(cell.values), "best": cell.is_best, "damaged": cell.is_damaged}
            for method, cells in self.rows
            for (name, key), cell in zip(places, cells, strict=True)
        ]  # fmt: skip
        return {"caption": self.caption, "rows": rows, "notes": self.notes(best="best")}

    def notes(self, *, best: str) -> list[str]:
        """What stands under a table: what its marks mean, the best one written as ``best``, and its short titles."""
        allowed = f"{100 * ALLOWED_LOSS:.0f} points"
        yardsticks = [name for name, _ in self.rows if name in FIRST]
        if self.is_judged:
            lines = [
                f"{best}: best of its column among the methods that are not shown to lose more than {allowed} of the "
                f"original's retain accuracy; {listed(yardsticks)} "
                f"{'is a yardstick' if len(yardsticks) == 1 else 'are yardsticks'}."
            ]
        else:
            lines = ["No value is marked as best: the retain accuracy, which would tell damage, was not measured."]
        if any(cell.is_damaged for _, cells in self.rows for cell in cells):
            lines.append(
                f"{DAMAGED}: lost more than {allowed} of retain accuracy (beyond its 95 % interval), so "
                "damage may explain a low forget accuracy; not compared."
            )
        meant = [f"{short} {key.replace('_', ' ')}" for key, short in SHORT.items() if key in self.keys]
        return [*lines, "; ".join([*meant, *MARKS]) + "."]

    def column(self, name: str, key: str) -> dict[str, Cell]:
        """The cells of one class and value by row."""
        place = self.classes.index(name) * len(self.keys) + self.keys.index(key)
        return {row: cells[place] for row, cells in self.rows}

    @property
    def header(self) -> tuple[str, ...]:
        """One line of column titles."""
        return ("method", *(f"{name} {short}" for name in self.classes for short in self.titles))


def seed_table(records: Sequence[Mapping[str, Any]], *, keys: Sequence[str]) -> SeedTable:
    """The table of the records of one protocol and one original; ``UsageError`` for records that are not alike."""
    check_alike({record["batch"]["model"]: record for record in records})
    classes = tuple(dict.fromkeys(forget_names(record) for record in records))
    measured: dict[str, Values] = {"original": {}}
    images: Counter[tuple[str, str]] = Counter()  # of one model behind the retain accuracy, by row and class
    for name, record in zip(row_names(records), records, strict=True):
        place = forget_names(record)
        images[name, place] = max(images[name, place], record["erased"].get(RETAINED, {}).get("n", 0))
        for key in dict.fromkeys([*keys, RETAINED]):
            add(measured.setdefault(name, {}), (place, key), record["erased"])
            if (place, key) not in measured["original"]:
                add(measured["original"], (place, key), record["original"])
    order = sorted(measured, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    columns = [(place, key) for place in classes for key in keys]
    damaged = {place: damaged_methods(measured, images, place) for place in classes}
    cells = [column_cells(measured, column, damaged[column[0]]) for column in columns]
    return SeedTable(
        caption=caption_of(records),
        classes=classes,
        keys=tuple(keys),
        titles=tuple(short_title(key, records[0]["feature_space"]) for key in keys),
        rows=tuple((name, tuple(column[name] for column in cells)) for name in order),
        is_judged=any(each is not None for each in damaged.values()),
    )


def row_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each record the method, and what sets it apart from other rows of it.

    A seed that a row would have twice for a class is not a repetition: such models stand by their own names, the last
    part of their paths where that is enough.
    """
    alike, names = Counter(map(place_of, records)), []
    paths = {record["batch"]["model"] for record in records}
    shorter = [Counter(map(shorten, paths)) for shorten in SHORTENED]
    for record in records:
        labels = record["batch"]
        name = f"{labels['method']} ({labels['settings']})" if labels["settings"] else labels["method"]
        spelt = [shorten(labels["model"]) for shorten in SHORTENED]
        model = next((each for each, found in zip(spelt, shorter, strict=True) if found[each] == 1), labels["model"])
        names.append(name if alike[place_of(record)] == 1 else f"{name}, {model}")
    return names


def place_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What one value of a cell must be the only one of."""
    labels = record["batch"]
    return labels["method"], labels["settings"], labels["seed"], forget_names(record)


def add(values: Values, place: tuple[str, str], scores: Mapping[str, Any]) -> None:
    """Add one seed's value, where it was measured."""
    entry = scores.get(place[1])
    if entry and entry["value"] is not None:
        values.setdefault(place, []).append(entry["value"])


def damaged_methods(
    measured: Mapping[str, Values], images: Mapping[tuple[str, str], int], place: str
) -> set[str] | None:
    """The methods that lost too much of the retained classes, few images or not; None where that was not measured.

    What counts is the upper end of Wilson's interval at the mean over seeds, for the images of one model: all seeds are
    scored on the same noise, so their images are no further evidence.
    """
    kept = {name: statistics.fmean(found[place, RETAINED]) for name, found in measured.items()
            if (place, RETAINED) in found}  # fmt: skip
    if "original" not in kept:
        return None
    least = kept["original"] - ALLOWED_LOSS - 1e-9  # a loss of just that much is allowed, whatever the rounding
    highest = {name: wilson(mean * images[name, place], images[name, place])[1] for name, mean in kept.items()}
    return {name for name in kept if highest[name] < least and name not in FIRST}


def column_cells(measured: Mapping[str, Values], column: tuple[str, str], damaged: set[str] | None) -> dict[str, Cell]:
    """The cells of a column by row; equal numbers, as a reader sees them, are best together."""
    values = {name: tuple(found.get(column, ())) for name, found in measured.items()}
    shape = shape_of(column[1], [statistics.fmean(each) for each in values.values() if each])
    cells = {
        name: Cell(values=each, is_damaged=bool(each) and name in (damaged or ()), **shape)
        for name, each in values.items()
    }
    compared = {name: cell for name, cell in cells.items() if cell.values and not cell.is_damaged and name not in FIRST}
    best = None if damaged is None else best_mean(compared.values(), displays()[column[1]].better)
    return {
        name: replace(cell, is_best=best is not None and name in compared and cell.shown(cell.mean) == cell.shown(best))
        for name, cell in cells.items()
    }


def shape_of(key: str, means: Sequence[float]) -> dict[str, int]:
    """Per cent with one digit for a share; else three significant digits of the largest mean."""
    if displays()[key].unit == "share":
        return {"scale": 100, "digits": 1}
    largest = max(map(abs, means), default=0.0)
    return {"scale": 1, "digits": max(0, 2 - math.floor(math.log10(largest))) if largest else 0}


def best_mean(cells: Iterable[Cell], better: Better) -> float | None:
    """The best mean of some cells; None where no direction is better or there are none."""
    means = [cell.mean for cell in cells]
    if better == "neither" or not means:
        return None
    return min(means) if better == "lower" else max(means)


def short_title(key: str, feature_space: str) -> str:
    """A value in a few letters, and which way is better."""
    name = DISTANCE.get(feature_space, "Frechet") if key == "frechet" else SHORT.get(key) or title(key, feature_space)
    return f"{name} {ARROWS[displays()[key].better]}".strip()


def caption_of(records: Sequence[Mapping[str, Any]]) -> str:
    """What all rows share: model, protocol, counts, seeds."""
    protocol = records[0]["protocol"]
    seeds = {record["batch"]["seed"] for record in records} - {None}
    forget, retain = protocol["num_forget_images"], protocol["num_retain_images"]
    counts = f"{forget} images of each erased class and {retain} of the others"
    spread = f"; mean and standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else ""
    return f"{model_name(records[0])}, protocol {protocol['name']}: {counts}{spread}; shares in per cent"


def tables_of(records: Iterable[Mapping[str, Any]], *, keys: Sequence[str]) -> list[SeedTable]:
    """A table for each protocol and original model."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(shared_by(record), []).append(record)
    return [seed_table(group, keys=keys) for group in groups.values()]


def shared_by(record: Mapping[str, Any]) -> str:
    """What the records of one table have in common."""
    protocol = sorted((key, str(value)) for key, value in record["protocol"].items())
    return repr([protocol, record["models"]["original"]])
