"""Fixtures of the roof's tests."""

import pytest

from eval.probe import Budget


@pytest.fixture
def few_images(monkeypatch):
    """Attacks are measured on six images."""
    monkeypatch.setitem(Budget.__init__.__kwdefaults__, "num_images", 6)
