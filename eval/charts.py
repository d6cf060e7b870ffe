"""Charts without a script: coordinates of the report's line charts, and whole SVG pictures of grouped bars."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

POINTS = 400  # per line, more are thinned out
LOG_FROM = 30.0  # ratio of the largest to the smallest value from which an axis is logarithmic

# Bar charts in pixels: names to the left, values to the right of the longest bar.
CHART_WIDTH, NAMES_WIDTH, VALUES_WIDTH, BAR_HEIGHT, GROUP_GAP, HEAD_HEIGHT = 760, 210, 90, 18, 12, 74
# Of each series on light and on dark paper, all at least 3:1 against it.
SERIES_COLOURS = (("#b5361c", "#ff8c69"), ("#76746d", "#a5a49d"), ("#2f6690", "#7fb3d9"), ("#6b5b1e", "#cdb968"))
CHART_STYLE = """\
.bar-chart { font: 14px/1 Inter, system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; max-width: 100%%; }
.bar-chart text { fill: #1b1b1a; } .bar-chart .title { font-size: 17px; font-weight: 600; }
.bar-chart .axis { stroke: #61605b; } %s
@media (prefers-color-scheme: dark) { .bar-chart text { fill: #ecebe7; } .bar-chart .axis { stroke: #a5a49d; } %s }"""


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


def bar_chart(
    title: str, groups: Mapping[str, Mapping[str, float | None]], *, in_words: Callable[[float | None], str]
) -> str:
    """A whole SVG picture of horizontal bars from 0: one group a row, e.g. a method, one bar a series, e.g. optimizers.

    ``groups`` maps a group's name to its values (0 or more, or None for no bar) by the name of their series;
    ``in_words`` writes a value, or why there is none. It needs no script, follows the reader's light or dark setting,
    and says all values in words to those who cannot see it.
    """
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    known = [value for values in groups.values() for value in values.values() if value is not None]
    if len(series) > len(SERIES_COLOURS) or min(known, default=0) < 0:
        raise ValueError(f"a bar chart holds up to {len(SERIES_COLOURS)} series of values from 0 on")
    rows = list(bar_rows(groups, series, full=max(known, default=0) or 1.0, in_words=in_words))
    count = sum(map(len, groups.values()))
    height = HEAD_HEIGHT + BAR_HEIGHT * count + GROUP_GAP * len(groups)
    spoken = "; ".join(f"{group}, {', '.join(said(values, in_words))}" for group, values in groups.items())
    light, dark = (" ".join(f".bar-chart .series-{i} {{ fill: {pair[mode]}; }}" for i, pair in
                            enumerate(SERIES_COLOURS[: len(series)])) for mode in (0, 1))  # fmt: skip
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="bar-chart" role="img" width="{CHART_WIDTH}" '
            f'height="{height}" viewBox="0 0 {CHART_WIDTH} {height}" aria-label="{escape(f"{title}: {spoken}")}">',
            f"<style>{CHART_STYLE % (light, dark)}</style>",
            f'<text class="title" x="0" y="20">{escape(title)}</text>',
            *legend(series),
            *rows,
            f'<line class="axis" x1="{NAMES_WIDTH}" x2="{NAMES_WIDTH}" y1="{HEAD_HEIGHT - 6}" y2="{height}"/>',
            "</svg>\n",
        ]
    )


def said(values: Mapping[str, float | None], in_words: Callable[[float | None], str]) -> list[str]:
    """Each value of a group with its series in words."""
    return [f"{name} {in_words(value)}" for name, value in values.items()]


def legend(series: Sequence[str]) -> Iterator[str]:
    """A square and a name for each series."""
    for place, name in enumerate(series):
        left = NAMES_WIDTH + 130 * place
        yield f'<rect class="series-{place}" x="{left}" y="36" width="14" height="14"/>'
        yield f'<text x="{left + 20}" y="48">{escape(name)}</text>'


def bar_rows(
    groups: Mapping[str, Mapping[str, float | None]],
    series: Sequence[str],
    *,
    full: float,
    in_words: Callable[[float | None], str],
) -> Iterator[str]:
    """The name of each group, its bars, and the value at the end of each; ``full`` is the value of the longest bar."""
    top = HEAD_HEIGHT
    for group, values in groups.items():
        middle = top + BAR_HEIGHT * len(values) / 2
        yield f'<text x="{NAMES_WIDTH - 12}" y="{middle + 5:g}" text-anchor="end">{escape(group)}</text>'
        for name, value in values.items():
            length = (CHART_WIDTH - NAMES_WIDTH - VALUES_WIDTH) * (value or 0) / full
            shape = f'x="{NAMES_WIDTH}" y="{top + 2}" width="{length:.2f}" height="{BAR_HEIGHT - 4}"'
            yield f'<rect class="series-{series.index(name)}" {shape}/>'
            words = escape(in_words(value))
            yield f'<text x="{NAMES_WIDTH + length + 8:.2f}" y="{top + BAR_HEIGHT - 4}">{words}</text>'
            top += BAR_HEIGHT
        top += GROUP_GAP
