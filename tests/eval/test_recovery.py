"""Recovery of a class under attack, and gates on a record."""

import pytest

from eval.gates import failed_gates, parse_gates, value_of
from eval.recovery import recovery, steps_to_half, verdict
from pipelines.errors import UsageError


def entry(value, **detail):
    """A probe's entry."""
    return {"value": value, "low": max(0, value - 0.1), "high": min(1, value + 0.1), "n": 100, "detail": detail}


def test_recovery_is_signed_against_the_retrained_floor():
    subjects = {"original": entry(0.9), "erased": entry(0.2), "retrained": entry(0.4)}
    found = recovery(subjects)
    assert found["value"] == pytest.approx(-0.4) and (found["raw"], found["floor"]) == (0.2, 0.4)
    assert recovery({**subjects, "erased": subjects["original"]})["value"] == 1
    assert recovery({**subjects, "erased": subjects["retrained"]})["value"] == 0
    del subjects["retrained"]
    assert recovery(subjects)["value"] == 0.2 and recovery(subjects)["floor"] is None


@pytest.mark.parametrize(
    ("curve", "steps"),
    [([(5, 0.2), (10, 0.6)], 8.75), ([(5, 0.5)], 5.0), ([(5, 1.0)], 2.5), ([(5, 0.1), (9, 0.4)], None)],
)
def test_steps_to_half_lie_on_a_straight_line(curve, steps):
    assert steps_to_half(curve, of=1.0) == steps


def test_curves_come_from_the_details():
    subjects = {
        "original": entry(1.0), "erased": entry(0.8, curve=[(5, 0.0), (10, 1.0)]),
        "retrained": entry(0.2, curves=[[(5, 0.0)], [(5, 0.25), (10, 0.75)]]),
    }  # fmt: skip
    found = recovery(subjects)
    assert (found["steps_to_half"], found["retrained_steps_to_half"]) == (7.5, 7.5)


def test_verdicts():
    words = [verdict("relearning", {"value": value, "floor": 0.1}) for value in (0.9, 0.3, 0.05, -0.4, None)]
    assert words == ["avoided", "weakened", "removed", "removed", "not measured"]


def test_an_attack_that_teaches_any_model_has_no_verdict_without_a_floor():
    bare = {"value": 0.9, "floor": None}
    assert verdict("relearning", bare) == verdict("classifier_guidance", bare) == "no verdict"
    assert verdict("embedding_inversion", bare) == verdict("relearning_retained", bare) == "avoided"


RECORD = {
    "original": {"retain_accuracy": {"value": 0.99}, "frechet": {"value": 0.5}, "forget_accuracy": {"value": 0.98}},
    "erased": {"retain_accuracy": {"value": 0.96}, "frechet": {"value": 0.6}, "forget_accuracy": {"value": 0.0}},
    "recovery": {"embedding_restore": {"value": 0.02}},
}


def test_gates_read_scores_drops_ratios_and_recoveries():
    assert value_of("retain_drop", RECORD) == pytest.approx(0.03)
    assert value_of("frechet_ratio", RECORD) == pytest.approx(1.2)
    gates = parse_gates("forget_accuracy<=0.01, retain_drop <= 0.02, recovery.embedding_restore<0.1,frechet_ratio>=1")
    (failure,) = failed_gates(gates, RECORD)
    assert failure == "retain_drop<=0.02 fails: retain_drop is 0.03"
    (missing,) = failed_gates(parse_gates("recovery.relearning<=0.5"), RECORD)
    assert missing == "recovery.relearning<=0.5 fails: recovery.relearning was not measured"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("forget_accuracy", "'forget_accuracy' is not NAME<=BOUND"),
        ("forget<=0.1", "'forget' is not one of"),
        ("recovery.magic<=0.1", "'recovery.magic' is not one of"),
        ("retain_drop<=1e-", "'1e-' is not a number"),
        ("", "'' is not NAME<=BOUND"),
    ],
)
def test_gates_that_cannot_be_read(text, words):
    with pytest.raises(UsageError, match=words):
        parse_gates(text)
