"""The speed behind the times of a plan."""

from itertools import count

import pytest
import torch

from erase.api import speed


def test_the_load_of_the_moment_does_not_count(monkeypatch):
    """Nineteen of twenty products take a second, one a hundredth: the device can do that."""
    clock, calls = 0.0, count()

    def now():
        nonlocal clock
        call = next(calls)
        clock += 0.0 if call % 2 == 0 else 0.01 if call == 21 else 1.0
        return clock

    monkeypatch.setattr(speed.time, "perf_counter", now)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = speed.measured_flops(torch.device("cpu"))
    torch.set_num_threads(1)
    assert found == pytest.approx(speed.REACHED * 3 * 2 * 512**3 / 0.01)  # each of three threads


def test_the_time_is_that_of_a_product():
    assert 0 < speed.seconds_of_product(torch.ones(64, 64)) < 10
