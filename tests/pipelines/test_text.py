"""Words as people read them."""

import pytest

from pipelines.text import counted, duration, explained, operations


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1,200 images")]
)
def test_nouns_follow_their_numbers(number, words):
    assert counted(number, "image") == words


def test_a_noun_may_have_a_plural_of_its_own():
    assert (counted(1, "class", plural="classes"), counted(3, "class", plural="classes")) == ("1 class", "3 classes")


def test_a_claim_without_parts_has_no_colon():
    assert explained("4 min", "") == "4 min" and explained("4 min", "runs 4 min") == "4 min: runs 4 min"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (36_000, "10.0 h"),
     (20_637_000, "239 days")],
)  # fmt: skip
def test_durations_are_rough(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("tflop", "words"),
    [(0.04, "0.0 TFLOP"), (999, "999.0 TFLOP"), (12_300, "12.3 PFLOP"), (4.5e9, "4,500.0 EFLOP")],
)
def test_operations_have_a_readable_unit(tflop, words):
    assert operations(tflop) == words
