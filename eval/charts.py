"""Coordinates of the report's line charts; the template draws them as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POINTS = 400  # per line, more are thinned out
LOG_FROM = 30.0  # ratio of the largest to the smallest value from which an axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart in percent of the plot; gaps split it into segments."""

    name: str
    segments: tuple[str, ...]  # SVG points
    last: float | None
    emphasis: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its ticks as (percent from the top, label)."""

    title: str
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    first_step: int
    last_step: int
    logarithmic: bool


def line_chart(title: str, history: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Chart | None:
    """Chart of the named readings over ``step``, the first with emphasis; None when no line has two finite values."""
    steps = [int(entry["step"]) for entry in history if "step" in entry]
    columns = {key: [entry.get(key) for entry in history if "step" in entry] for key in names}
    columns = {key: [_finite(value) for value in column] for key, column in columns.items()}
    columns = {key: column for key, column in columns.items() if sum(value is not None for value in column) > 1}
    if not columns or steps[0] == steps[-1]:
        return None

    values = [value for column in columns.values() for value in column if value is not None]
    logarithmic = min(values) > 0 and max(values) / min(values) > LOG_FROM
    ticks = log_ticks(min(values), max(values)) if logarithmic else linear_ticks(min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
    lines = [
        Line(
            name=names[key],
            segments=segments(steps, column, low=low, high=high, logarithmic=logarithmic),
            last=next(value for value in reversed(column) if value is not None),
            emphasis=key == next(iter(names)),
        )
        for key, column in columns.items()
    ]
    return Chart(
        title=title,
        lines=tuple(lines),
        ticks=tuple((height(tick, low, high, logarithmic), f"{tick:g}") for tick in ticks),
        first_step=steps[0],
        last_step=steps[-1],
        logarithmic=logarithmic,
    )


def _finite(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def height(value: float, low: float, high: float, logarithmic: bool) -> float:
    """Percent from the top of the plot."""
    if logarithmic:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return 100.0 - 100.0 * (value - low) / (high - low)


def segments(
    steps: Sequence[int], values: Sequence[float | None], *, low: float, high: float, logarithmic: bool
) -> tuple[str, ...]:
    """SVG point lists, split where a value is missing."""
    stride = -(-len(steps) // POINTS)
    found: list[list[str]] = [[]]
    for index, (step, value) in enumerate(zip(steps, values, strict=True)):
        if value is None:
            found.append([])
        elif index % stride == 0 or index == len(steps) - 1:
            across = 100.0 * (step - steps[0]) / (steps[-1] - steps[0])
            found[-1].append(f"{across:.2f},{height(value, low, high, logarithmic):.2f}")
    return tuple(" ".join(points) for points in found if len(points) > 1)


def linear_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose a range."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose a positive range, thinned out to at most six."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = -(-(last - first) // 5)
    return [10.0**power for power in range(first, last + stride, stride)]
