"""Intervals against published examples and scipy."""

import pytest
from scipy.stats import binomtest

from eval.values import difference, mean, share, wilson


def test_wilson_of_nothing_in_500_is_the_figure_of_the_protocol():
    low, high = wilson(0, 500)
    assert low == 0
    assert high == pytest.approx(0.0076, abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (3, 17), (250, 500), (999, 1000), (1000, 1000)])
def test_wilson_agrees_with_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_contains_the_share_and_knows_nothing_without_images():
    assert wilson(0, 0) == (0.0, 1.0)
    for n in (1, 3, 77):
        for successes in range(n + 1):
            low, high = wilson(successes, n)
            assert 0 <= low <= successes / n <= high <= 1


def test_newcombe_reproduces_his_published_example():
    change = difference(share(56, 70).to_dict(), share(48, 80).to_dict())
    assert change["value"] == pytest.approx(0.2)
    assert (change["low"], change["high"]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_difference_needs_both_values():
    assert difference(share(0, 0).to_dict(), share(1, 2).to_dict())["value"] is None


def test_mean_interval_of_a_coin():
    value = mean(50, 50, 100)
    assert (value.value, value.high) == pytest.approx((0.5, 0.5 + 1.959964 * (0.25 / 99) ** 0.5), abs=1e-6)
    assert mean(0, 0, 0).value is None
