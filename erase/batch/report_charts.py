"""The charts of a batch's report: forgetting against its price, and every value method by method."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eval.metric import displays, title
from eval.scatter import Axis, axis, scatter
from eval.words import direction, number

from .report_parts import Scored
from .seed_table import ALLOWED_LOSS, FIRST, RETAINED, Cell, SeedTable, row_names

ACROSS = "forget_accuracy"
PRICES = (RETAINED, "frechet")  # against which forgetting is drawn: the first that was measured


def scatter_view(table: SeedTable, scored: Sequence[Scored]) -> dict[str, Any]:
    """Forget accuracy against the price of it, one mark a model; empty where either was not measured."""
    records = [each.record for each in scored]
    price = next((key for key in PRICES if all(value_of(each, key) is not None for each in records)), "")
    if not price or any(value_of(each, ACROSS) is None for each in records):
        return {}
    points: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in table.rows}
    for name, record in zip(row_names(records), records, strict=True):
        points[name].append(tuple(shown(record, key) for key in (ACROSS, price)))
        before = tuple(shown(record, key, "original") for key in (ACROSS, price))
        points["original"] += [before] if before not in points["original"] else []
    every = [point for found in points.values() for point in found]
    x, y = (axis_of(key, [point[place] for point in every], scored) for place, key in enumerate((ACROSS, price)))
    methods = {name: found for name, found in points.items() if name not in FIRST}
    spoken = "; ".join(f"{name} {spoken_mean(found)}" for name, found in points.items())
    limit = limit_of(points["original"], y) if price == RETAINED and len(table.classes) == 1 else None
    return {
        "chart": scatter(methods, {name: points[name] for name in FIRST if name in points}, x=x, y=y),
        "spread": ", of one class and one seed" if len(table.classes) > 1 else "",
        "towards": towards(price, limited=limit is not None),
        "limit": limit,
        "spoken": f"{y.title} against {x.title}, means: {spoken}",
    }


def towards(price: str, *, limited: bool) -> str:
    """Where the best models lie, and what the dashed line is."""
    better = "upper" if displays()[price].better == "higher" else "lower"
    corner = f"The {better} left corner is best: the class is gone, and the others are as they were."
    points = f"{100 * ALLOWED_LOSS:.0f} points"
    return f"{corner} The dashed line lies {points} below the original." if limited else corner


def limit_of(originals: Sequence[tuple[float, float]], y: Axis) -> float | None:
    """How far from the top the least retain accuracy of a method that is compared lies; None outside of the plot."""
    place = 100 - y.place(originals[0][1] - 100 * ALLOWED_LOSS)
    return place if 0 <= place <= 100 else None


def value_of(record: Any, key: str, model: str = "erased") -> float | None:
    """One value of a record."""
    return record[model].get(key, {}).get("value")


def shown(record: Any, key: str, model: str = "erased") -> float:
    """The same as it is drawn: shares in per cent."""
    return value_of(record, key, model) * (100 if displays()[key].unit == "share" else 1)


def axis_of(key: str, values: Sequence[float], scored: Sequence[Scored]) -> Axis:
    """An axis with the name of its value."""
    suffix = " %" if displays()[key].unit == "share" else ""
    return axis(title(key, scored[0].record["feature_space"]), values, suffix=suffix)


def spoken_mean(points: Sequence[tuple[float, float]]) -> str:
    """The middle of some points in words."""
    across, up = (statistics.fmean(each) for each in zip(*points, strict=True))
    return f"{across:.1f} and {up:.3g}"


def measures(table: SeedTable, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Each value of the table as bars, one a method, over all its models."""
    found = []
    for place, key in enumerate(table.keys):
        pooled = {name: pool(cells[place :: len(table.keys)]) for name, cells in table.rows}
        before, show = pooled.pop("original"), displays()[key]
        known = {name: cell for name, cell in pooled.items() if cell.values}
        if not known or not before.values:
            continue
        full = 1.0 if show.unit == "share" else max(before.mean, *(max(cell.values) for cell in known.values())) or 1.0
        found.append(
            {
                "title": title(key, scored[0].record["feature_space"]),
                "meaning": show.meaning,
                "direction": direction(key),
                "original": number(before.mean, show.unit),
                "rows": [bar_row(name, cell, full=full, was=before.mean) for name, cell in known.items()],
            }
        )
    return found


def pool(cells: Sequence[Cell]) -> Cell:
    """The cells of one method and value over all classes as one."""
    return replace(cells[0], values=tuple(value for cell in cells for value in cell.values))


def bar_row(name: str, cell: Cell, *, full: float, was: float) -> dict[str, Any]:
    """One bar: the mean, the standard deviation to both sides, and every model, as shares of the longest."""

    def place(value: float) -> float:
        return min(1.0, max(0.0, value / full))

    spread = cell.deviation
    return {
        "name": name,
        "value": place(cell.mean),
        "was": place(was),
        "low": None if spread is None else place(cell.mean - spread),
        "high": None if spread is None else place(cell.mean + spread),
        "dots": [place(value) for value in cell.values],
        "text": cell.text + " %" * (cell.scale == 100),
    }
