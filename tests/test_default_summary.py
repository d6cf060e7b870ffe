"""What the default is held to over all classes, on lines whose figures are known."""

import json
import math

import pytest

from benchmarks import default_summary
from benchmarks.default_summary import figures, missed, overview, tables, write_summary
from benchmarks.probe_summary import ATTACKS
from benchmarks.relearning_pace import AMONG_OTHERS, pace_rows, ratio_by_attack, steps_ratio, strongest_curve

PROBES = [name for name in ATTACKS if name != "forget_accuracy"]
RELEARNINGS = (AMONG_OTHERS, "another")
SOON, LATE, NEVER = ([[5, a], [10, b], [20, c]] for a, b, c in ((0.9, 0.9, 0.9), (0.0, 0.5, 0.8), (0.0, 0.1, 0.2)))


def entry(share, *curves):
    return {"value": share, "detail": {"attacks": dict(zip(RELEARNINGS, curves, strict=False))}}


def line_of(*, rise=0.0, under="label_mixing", retrained=True, curves=(LATE,), floor_curves=(LATE,)):
    """A class: every attack brings back 0.1 from the retrained model, and ``rise`` more from the erased one."""
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
    assert steps_ratio(line) == pytest.approx((5 + 5 * 2 / 3) / 10)
    assert steps_ratio(line_of(retrained=False)) is None


def test_a_class_that_never_comes_back_is_the_best_and_never_hides_the_worst():
    assert steps_ratio(line_of(curves=(NEVER,))) == steps_ratio(line_of(curves=(NEVER,), floor_curves=(NEVER,)))
    never = figures(line_of(curves=(NEVER,)))
    assert never["steps_ratio"] == math.inf and missed({1: never}) == []
    worst = figures(line_of(floor_curves=(NEVER,)))
    assert worst["steps_ratio"] == 0 and missed({1: worst}) == ["1: steps ratio 0, at least 0.8"]


def test_each_attack_has_a_pace_of_its_own():
    """The strongest hides the others: half back at once by one of them, and by another sooner than to the floor."""
    line = line_of(curves=(SOON, LATE), floor_curves=(SOON, NEVER))
    assert steps_ratio(line) == 1 and ratio_by_attack(line) == {AMONG_OTHERS: 1.0, "another": 0.0}
    assert figures(line)["ratio_by_attack"] == ratio_by_attack(line)
    bare = line_of(retrained=False, curves=(SOON, NEVER))
    assert ratio_by_attack(bare) == {}
    assert pace_rows({1: line, 2: bare}) == [[AMONG_OTHERS, "3 / 3", "3"], ["another", "10 / > 20", "> 20"]]


def test_one_class_may_rise_further_than_the_others():
    fair, far, too_far = (figures(line_of(rise=rise)) for rise in (0.04, 0.11, 0.2))
    assert far["rise"] == pytest.approx(0.11) and far["rise_under"] == "label_mixing"
    assert missed({1: fair, 2: far}) == []
    assert missed({1: fair, 2: far, 3: far}) == ["3: rise 0.11, at most 0.05"]
    assert missed({1: far, 2: too_far}) == ["1: rise 0.11, at most 0.05", "2: rise 0.2, at most 0.12"]
    assert figures(line_of(retrained=False))["rise"] is None
    assert figures(line_of(rise=0.9, under="relearning"))["rise"] == pytest.approx(0.0)  # held to its speed instead


def test_every_figure_may_be_missed():
    line = line_of(rise=0.3, curves=(SOON,))
    line["scores"]["erased"] |= {"forget_accuracy": 0.03, "retain_accuracy": 0.9, "frechet": 1.3}
    assert missed({4: figures(line)}) == [
        "4: forget accuracy 0.03, at most 0.01",
        "4: retain drop 0.1, at most 0.02",
        "4: frechet ratio 1.3, at most 1.15",
        "4: rise 0.3, at most 0.12",
        "4: steps ratio 0.278, at least 0.8",
    ]


def test_a_class_without_a_retrained_model_has_its_own_figures_alone():
    text = tables({1: line_of(rise=0.1, under="completion"), 2: line_of(retrained=False)})
    assert "| begun by the original | 20.0 / 10.0 | 10.0 |" in text
    assert "| Frechet, times the original's | 1.10 | 1.10 |" in text
    assert "| steps to half, times the retrained model's | 1.00 |  |" in text


def test_the_scores_of_all_classes_are_told_by_their_extremes():
    worse = line_of()
    worse["scores"]["erased"] |= {"forget_accuracy": 0.03, "retain_accuracy": 0.95, "frechet": 1.3}
    text = overview({1: line_of(), 2: worse, 3: {"diverged": "step 7"}})
    assert text.startswith("| over 2 classes | original | after erasing |")
    assert "| forget accuracy | 100.0 % to 100.0 % | 0.0 % to 3.0 % |" in text
    assert "| old label row put back | 100.0 % to 100.0 % | 10.0 % to 10.0 % |" in text
    assert "| 3.0 on average, 5.0 at most |" in text and "| 1.20 on average, 1.30 at most |" in text


def test_a_summary_is_json_and_a_picture_of_every_class_that_did_not_diverge(tmp_path, monkeypatch):
    monkeypatch.setattr(default_summary, "RESULTS", tmp_path)
    text = write_summary("toy", {1: line_of(curves=(NEVER,)), 2: {"diverged": "step 7"}})
    assert "| never |" in text and "missed: 2: diverged" in text
    summary = json.loads((tmp_path / "toy.json").read_text(), parse_constant=pytest.fail)
    assert list(summary["classes"]) == ["1"] and summary["missed"] == ["2: diverged"]
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
