"""The gap to retrain against sums made by hand, and what it is over."""

import pytest

from eval.gap import gap_between, gap_to_retrain, part_name, shares
from eval.metric import displays


def entry(value):
    """A score."""
    return {"value": value, "low": None, "high": None, "n": 100}


RECORD = {
    "original": {"forget_accuracy": entry(0.97), "retain_accuracy": entry(0.97), "frechet": entry(7.4)},
    "erased": {"forget_accuracy": entry(0.0), "retain_accuracy": entry(0.94), "frechet": entry(8.0)},
    "retrained": {"forget_accuracy": entry(0.02), "retain_accuracy": entry(0.96), "frechet": entry(6.2)},
    "probes": {
        "relearning": {"original": entry(0.97), "erased": entry(0.62), "retrained": entry(0.17)},
        "label_mixing": {"original": entry(0.9), "erased": entry(0.1)},
        "completion": {"original": entry(0.9), "erased": entry(None), "retrained": entry(0.5)},
    },
}


def test_the_gap_is_the_mean_absolute_difference_of_what_both_have():
    gap = gap_between({"a": 0.5, "b": 0.1, "only here": 1.0}, {"a": 0.2, "b": 0.3, "only there": 0.0})
    assert gap.differences == pytest.approx({"a": 0.3, "b": -0.2}) and gap.value == pytest.approx(0.25)
    assert gap_between({"a": 0.5}, {"a": 0.5}).value == 0
    assert gap_between({"a": 0.5}, {"b": 0.5}) is None
    one, other = {"a": 0.9, "b": 0.2}, {"a": 0.4, "b": 0.3}
    assert gap_between(one, other).value == gap_between(other, one).value


def test_a_share_that_is_neither_good_nor_bad_has_no_part():
    neutral = next(key for key, show in displays().items() if show.unit == "share" and show.better == "neither")
    record = {**RECORD, "erased": {**RECORD["erased"], neutral: entry(1.0)}}
    assert shares(record, "erased") == shares(RECORD, "erased")


def test_a_record_gives_its_shares_and_no_distance():
    assert shares(RECORD, "erased") == {
        "forget_accuracy": 0.0, "retain_accuracy": 0.94, "probes.relearning": 0.62, "probes.label_mixing": 0.1
    }  # fmt: skip
    gap = gap_to_retrain(RECORD)
    assert gap.differences == pytest.approx(
        {"forget_accuracy": -0.02, "retain_accuracy": -0.02, "probes.relearning": 0.45}
    )
    assert gap.value == pytest.approx((0.02 + 0.02 + 0.45) / 3)
    assert gap_to_retrain(RECORD, "original").value == pytest.approx((0.95 + 0.01 + 0.8 + 0.4) / 4)
    assert gap_to_retrain(RECORD, "retrained").value == 0
    bare = {**RECORD, "probes": {"label_mixing": RECORD["probes"]["label_mixing"]}}
    del bare["retrained"]
    assert gap_to_retrain(bare) is None
    assert part_name("retain_accuracy", "digits") == "Retain accuracy"
    assert part_name("probes.label_mixing", "digits") == "attack: label mixing"
