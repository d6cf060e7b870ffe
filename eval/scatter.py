"""A chart of two values against each other, one mark a model: coordinates in per cent of the plot, for a template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .charts import SERIES_COLOURS, linear_ticks

Point = tuple[float, float]

# Outlines around the origin, of about one area; the last two are those of the yardsticks.
SHAPES = {
    "circle": "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0z",
    "square": "M-5-5h10v10h-10z",
    "triangle": "M0-6.5L6.5 5H-6.5z",
    "diamond": "M0-7L7 0L0 7L-7 0z",
}
YARDSTICKS = {"plus": "M-8 0H8M0-8V8", "cross": "M-6-6L6 6M-6 6L6-6"}


@dataclass(frozen=True, kw_only=True)
class Series:
    """The marks of one method or yardstick."""

    name: str
    outline: str
    style: str  # CSS classes
    points: tuple[Point, ...]  # per cent from the left and from the top


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis with its ticks as (per cent from its beginning, label)."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Per cent from the beginning."""
        return 100 * (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """A chart, methods first."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]


def axis(title: str, values: Sequence[float], *, suffix: str = "") -> Axis:
    """An axis that holds all values between its first and its last tick."""
    ticks = linear_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    placed = tuple((100 * (tick - low) / (high - low), f"{tick:g}{suffix}") for tick in ticks)
    return Axis(title=title, low=low, high=high, ticks=placed)


def scatter(
    methods: Mapping[str, Sequence[Point]], yardsticks: Mapping[str, Sequence[Point]], *, x: Axis, y: Axis
) -> Scatter:
    """Every point of each method, told apart by colour and by shape, and up to two yardsticks as lines."""
    found = [
        series(name, points, outline=outline_of(place), style=style_of(place), x=x, y=y)
        for place, (name, points) in enumerate(methods.items())
    ]
    found += [
        series(name, points, outline=outline, style="yardstick", x=x, y=y)
        for (name, points), outline in zip(yardsticks.items(), YARDSTICKS.values(), strict=False)
    ]
    return Scatter(x=x, y=y, series=tuple(found))


def series(name: str, points: Sequence[Point], *, outline: str, style: str, x: Axis, y: Axis) -> Series:
    """Points in the place of the plot."""
    placed = tuple((x.place(across), 100 - y.place(up)) for across, up in points)
    return Series(name=name, outline=outline, style=style, points=placed)


def outline_of(place: int) -> str:
    """The shape of a method: neighbours differ in it as well as in colour, and sixteen methods in one of the two."""
    shapes = list(SHAPES.values())
    return shapes[(place + place // len(SERIES_COLOURS)) % len(shapes)]


def style_of(place: int) -> str:
    """The colour of a method, hollow from the seventeenth on."""
    rounds = place // (len(SERIES_COLOURS) * len(SHAPES))
    return f"colour-{place % len(SERIES_COLOURS)}" + (" hollow" if rounds % 2 else "")
