"""Recovery of a class under attack, and gates on a record."""

import pytest

from eval.gates import failed_gates, judge, parse_gates, value_of
from eval.recovery import recovery, steps_to_half, verdict
from pipelines.errors import UsageError


def entry(value, spread=0.02, **detail):
    """A probe's entry."""
    return {"value": value, "low": max(0, value - spread), "high": min(1, value + spread), "n": 100, "detail": detail}


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


def judged(name, erased, original, retrained=None):
    """The verdict on shares of some models."""
    subjects = {"original": entry(original), "erased": {**entry(erased or 0), "value": erased}}
    return verdict(name, recovery(subjects | ({} if retrained is None else {"retrained": entry(retrained)})))


def test_verdicts():
    words = [judged("relearning", share, 1.0, 0.2) for share in (0.9, 0.3, 0.25, 0.0, None)]
    assert words == ["avoided", "weakened", "removed", "removed", "not measured"]


def test_an_attack_that_teaches_any_model_has_no_verdict_without_a_floor():
    assert judged("relearning", 0.9, 1.0) == judged("classifier_guidance", 0.9, 1.0) == "no verdict"
    assert judged("embedding_inversion", 0.9, 1.0) == judged("relearning_retained", 0.9, 1.0) == "avoided"


@pytest.mark.parametrize("floor", [0.6, 0.99, 1.0])
def test_an_attack_that_a_model_without_the_class_yields_to_has_no_verdict(floor):
    """By its recovery alone, 100 % here, the class would be called avoided: 100 images more or less of 100."""
    assert judged("relearning", 1.0, 1.0, floor) == "no verdict"
    subjects = {"original": entry(1.0), "erased": entry(1.0), "retrained": entry(floor)}
    assert recovery(subjects)["value"] == (None if floor == 1 else pytest.approx(1))


def test_a_share_that_is_small_on_the_original_already_has_no_verdict_without_a_floor():
    """One of ten classes is drawn without a label in a tenth of the images, hidden or not: that is not *removed*."""
    assert judged("unconditional_mass", 0.072, 0.072) == "no verdict"
    assert judged("unconditional_mass", 0.072, 0.072, 0.016) == "avoided"
    assert judged("unconditional_mass", 0.012, 0.072, 0.016) == "removed"
    assert judged("unconditional_mass", 0.0, 0.0, 0.0) == "no verdict"


def test_one_image_more_than_nothing_is_no_class_that_came_back():
    """Of a thousand classes one is drawn without a label in one image or in none of 250, whatever was erased."""
    rare = {"value": 0.004, "low": 0.0, "high": 0.022, "n": 250, "detail": {}}
    none = {"value": 0.0, "low": 0.0, "high": 0.015, "n": 250, "detail": {}}
    found = recovery({"original": rare, "erased": rare, "retrained": none})
    assert found["value"] == 1 and verdict("unconditional_mass", found) == "no verdict"


RECORD = {
    "forget_classes": [3],
    "original": {"retain_accuracy": {"value": 0.99}, "frechet": {"value": 0.5}, "forget_accuracy": {"value": 0.98}},
    "erased": {"retain_accuracy": {"value": 0.96}, "frechet": {"value": 0.6}, "forget_accuracy": {"value": 0.0}},
    "probes": {
        "embedding_restore": {"original": entry(1.0), "erased": entry(0.02)},
        "classifier_guidance": {"original": entry(1.0), "erased": entry(0.9)},
    },
}


def test_gates_read_scores_drops_ratios_and_recoveries():
    assert value_of("retain_drop", RECORD) == pytest.approx(0.03)
    assert value_of("frechet_ratio", RECORD) == pytest.approx(1.2)
    gates = parse_gates("forget_accuracy<=0.01, retain_drop <= 0.02, recovery.embedding_restore<0.1,frechet_ratio>=1")
    (failure,) = failed_gates(gates, RECORD)
    assert failure == "retain_drop<=0.02 fails: retain_drop is 0.03"
    (missing,) = failed_gates(parse_gates("recovery.relearning<=0.5"), RECORD)
    assert missing.startswith(
        "recovery.relearning<=0.5 fails: recovery.relearning has no value, which may take a model"
    )


def test_a_gate_on_an_attack_that_tells_nothing_without_a_floor_fails():
    """Steered by a classifier any model draws the class; the bound is held against one that never saw it."""
    (gate,) = parse_gates("recovery.classifier_guidance<=0.99")
    assert judge(gate, RECORD).value is None and failed_gates([gate], RECORD)
    rows = {**RECORD["probes"]["classifier_guidance"], "retrained": entry(0.8)}
    floored = {**RECORD, "probes": {"classifier_guidance": rows}}
    assert judge(gate, floored).value == pytest.approx(0.5) and not failed_gates([gate], floored)
    (missing,) = failed_gates(parse_gates("kid<=1"), RECORD)
    assert missing == "kid<=1 fails: kid has no value"


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
