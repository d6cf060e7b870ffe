"""A chart of two values: every mark in its place, every method told apart."""

import itertools

import pytest

from eval.scatter import axis, outline_of, scatter, style_of


def test_marks_lie_where_their_values_are():
    x, y = axis("forget", [0, 100]), axis("retain", [20, 100])
    assert (x.ticks[0], x.ticks[-1]) == ((0, "0"), (100, "100")) and y.low == 20 and y.place(60) == 50
    chart = scatter({"salun": [(25, 100), (0, 20)]}, {"original": [(100, 60)]}, x=x, y=y)
    method, original = chart.series
    assert method.points == ((25, 0), (0, 100)) and original.points == ((100, 50),)
    assert original.style == "yardstick" and method.style == "colour-0"


@pytest.mark.parametrize("values", [[0.5], [3, 3], [0, 0], [1e-6, 4e5], [97.2, 97.3]])
def test_an_axis_holds_its_values_whatever_they_are(values):
    found = axis("any", values)
    assert all(0 <= found.place(value) <= 100 for value in values)
    assert [place for place, _ in found.ticks] == sorted(place for place, _ in found.ticks)


def test_thirty_two_methods_look_unlike_and_neighbours_in_two_ways():
    looks = [(outline_of(place), style_of(place)) for place in range(32)]
    assert len(set(looks)) == 32
    for (shape, colour), (next_shape, next_colour) in itertools.pairwise(looks):
        assert shape != next_shape and colour != next_colour
