"""What the default is held to over all classes, on lines whose figures are known."""

import pytest

from benchmarks.default_summary import held_to, missed, pace, strongest_curve, tables
from benchmarks.probe_summary import ATTACKS

PROBES = [name for name in ATTACKS if name != "forget_accuracy"]


def entry(share, *curves):
    return {"value": share, "detail": {"attacks": {str(number): curve for number, curve in enumerate(curves)}}}


def line_of(*, rise=0.0, under="label_mixing", retrained=True, curves=([[5, 0.1], [10, 0.6], [20, 0.9]],)):
    """A class: every attack brings back 0.1 from the retrained model, and ``rise`` more from the erased one."""
    floor_curves = ([[5, 0.0], [10, 0.5], [20, 0.8]],)
    probes = {}
    for name in PROBES:
        shares = {"original": 1.0, "erased": 0.1 + rise * (name == under), "retrained": 0.1}
        drawn = {"original": (), "erased": curves, "retrained": floor_curves}
        probes[name] = {who: entry(share, *drawn[who]) for who, share in shares.items()}
    scores = {
        "original": {"forget_accuracy": 1.0, "retain_accuracy": 1.0, "frechet": 1.0},
        "erased": {"forget_accuracy": 0.0, "retain_accuracy": 0.99, "frechet": 1.1},
        "retrained": {"forget_accuracy": 0.02, "retain_accuracy": 0.99, "frechet": 1.0},
    }
    if not retrained:
        del scores["retrained"]
        probes = {name: {who: rows[who] for who in ("original", "erased")} for name, rows in probes.items()}
    return {"scores": scores, "probes": probes, "recovery": {}}


def test_the_strongest_attack_is_the_best_of_all_at_each_step():
    line = line_of(curves=([[5, 0.3], [10, 0.4], [20, 0.5]], [[5, 0.0], [10, 0.6], [20, 1.0]]))
    assert strongest_curve(line, "erased") == [(5, 0.3), (10, 0.6), (20, 1.0)]
    # Half is back after 5 + 5 * 0.2 / 0.3 steps; of the retrained model's, after 10.
    assert pace(line) == pytest.approx((5 + 5 * 2 / 3) / 10)
    assert pace(line_of(retrained=False)) is None
    assert pace(line_of(curves=([[5, 0.0], [10, 0.1], [20, 0.2]],))) is None


def test_one_class_may_rise_further_than_the_others():
    fair, far, too_far = (held_to(line_of(rise=rise)) for rise in (0.04, 0.11, 0.2))
    assert far["rise"] == pytest.approx(0.11) and far["rise_under"] == "label_mixing"
    assert missed({1: fair, 2: far}) == []
    assert missed({1: fair, 2: far, 3: far}) == ["2: rise 0.11, at most 0.05"]
    assert missed({1: fair, 2: too_far}) == ["2: rise 0.2, at most 0.12"]
    assert held_to(line_of(retrained=False))["rise"] is None
    assert held_to(line_of(rise=0.9, under="relearning"))["rise"] == pytest.approx(0.0)  # held to its speed instead


def test_every_figure_may_be_missed():
    line = line_of(curves=([[5, 0.9], [10, 0.9], [20, 0.9]],))
    line["scores"]["erased"] |= {"forget_accuracy": 0.03, "retain_accuracy": 0.9, "frechet": 1.3}
    assert missed({4: held_to(line)}) == [
        "4: forget accuracy 0.03, at most 0.01",
        "4: retain drop 0.1, at most 0.02",
        "4: frechet ratio 1.3, at most 1.15",
        "4: pace 0.278, at least 0.8",
    ]


def test_a_class_without_a_retrained_model_has_its_own_figures_alone():
    text = tables({1: line_of(rise=0.1, under="completion"), 2: line_of(retrained=False)})
    assert "| begun by the original | 20.0 / 10.0 | 10.0 |" in text
    assert "| Frechet, times the original's | 1.10 | 1.10 |" in text
    assert "| steps to half, times the retrained model's | 0.90 |  |" in text
