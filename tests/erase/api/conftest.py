"""Fixtures of the roof's tests."""

import dataclasses

import pytest

from erase.api import run
from eval.cost import Terms
from eval.probe import AMOUNTS, Budget, Relearning


@pytest.fixture
def few_images(monkeypatch):
    """Attacks are measured, and planned to be measured, on six images."""
    for kind in (Budget, Terms):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "num_images", 6)


@pytest.fixture
def short_attacks(monkeypatch):
    """The quick budget is a few steps long."""
    short = dataclasses.replace(
        AMOUNTS["quick"], screening_images=1, inversion_steps=(1, 2), inversion_images=4, relearning_steps=(1, 2),
        relearning_within=2, relearnings=(Relearning(num_images=3),), retained_images=6, classifier_steps=1,
    )  # fmt: skip
    monkeypatch.setitem(AMOUNTS, "quick", short)


@pytest.fixture
def scored_two(judged_model, pictures, short_protocol, few_images, short_attacks, tmp_path, monkeypatch):
    """The same of two classes."""
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    return run(
        judged_model, "three", "four", method="embedding_reset", data=pictures, protocol=short_protocol,
        reference=pictures, output_dir=tmp_path / "run", progress=False,
    )  # fmt: skip


@pytest.fixture
def scored(judged_model, pictures, short_protocol, few_images, short_attacks, tmp_path, monkeypatch):
    """A scored run of the trivial baseline, with a cache of its own."""
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    return run(
        judged_model, "three", method="embedding_reset", data=pictures, protocol=short_protocol, reference=pictures,
        output_dir=tmp_path / "run", progress=False,
    )  # fmt: skip
