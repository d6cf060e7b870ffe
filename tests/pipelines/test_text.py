"""Words as people read them."""

import pytest

from pipelines.text import counted, explained


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1,200 images")]
)
def test_nouns_follow_their_numbers(number, words):
    assert counted(number, "image") == words


def test_a_noun_may_have_a_plural_of_its_own():
    assert (counted(1, "class", plural="classes"), counted(3, "class", plural="classes")) == ("1 class", "3 classes")


def test_a_claim_without_parts_has_no_colon():
    assert explained("4 min", "") == "4 min" and explained("4 min", "runs 4 min") == "4 min: runs 4 min"
