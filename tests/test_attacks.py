"""Attacks of the benchmarks as jobs: yardsticks once, only what is missing, nothing lost with what fails or is cut."""

import json
from dataclasses import dataclass, replace

import pytest

from benchmarks import attacks
from benchmarks.attacks import FLOORS, Control, Subject, Yardstick, by_key, joined, kept, run_all
from benchmarks.erasures import RESULTS
from benchmarks.probe_table import subjects
from erase.methods.retain_posterior import RetainPosterior
from eval.probe import AMOUNTS, probe_names

RECIPE = attacks.Recipe()
SHARES = {"original": 0.9, "retrained": 0.1, "embedding_reset": 0.8, "erased": 0.3}


def attacked(who):
    entry = {"value": SHARES[who], "low": 0.0, "high": 1.0, "detail": {}}
    return {"scores": {} if who == "embedding_reset" else {"forget_accuracy": 0.0}, "probes": {"label_mixing": entry}}


@dataclass(frozen=True, kw_only=True)
class Beside(Yardstick):
    """A yardstick that only tells that it was attacked."""

    def attacked(self, work):
        (work / f"{self.who}-{self.forget_class}").touch(exist_ok=False)
        return attacked(self.who)


@dataclass(frozen=True, kw_only=True)
class Model(Subject):
    """An erased model that only tells that it was attacked; class 9 fails unless there is a file called mended."""

    @property
    def yardsticks(self):
        return [Beside(**vars(each)) for each in super().yardsticks]

    def attacked(self, work):
        if self.forget_class == 9 and not (work / "mended").exists():
            raise RuntimeError("out of luck")
        (work / f"{self.optimizers}-{self.forget_class}").touch(exist_ok=False)
        return attacked("erased")


def model(label, side="dual"):
    return Model(method="retain_posterior", forget_class=label, optimizers=side, budget="quick")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Attack the models, and tell which attacks have been made until now; each refuses to be made twice."""
    monkeypatch.setattr(attacks, "YARDSTICKS", tmp_path / "yardsticks.jsonl")
    work = tmp_path / "work"
    work.mkdir()

    def attack_all(*wanted):
        lines = run_all(wanted, tmp_path / "lines.jsonl", work, workers=1)
        return lines, {path.name for path in work.iterdir()}

    return attack_all


def test_yardsticks_are_attacked_once_for_a_class(made):
    lines, names = made(model(3), model(3, "shared"), model(0))
    three, zero = {"embedding_reset-3", "original-3", "retrained-3"}, {"embedding_reset-0", "original-0"}
    assert names == {"dual-0", "dual-3", "shared-3"} | three | zero
    again, after = made(model(3, "shared"), model(3), model(0), model(0, "shared"))
    assert after == names | {"shared-0"} and lines.items() <= again.items()


def test_what_fails_is_named_and_the_rest_is_kept(made, tmp_path):
    with pytest.raises(ExceptionGroup, match="1 of 7 jobs failed") as failed:
        made(model(9), model(0))
    assert "forget_class=9" in str(failed.value.exceptions[0]) and "out of luck" in str(failed.value.exceptions[0])
    assert list(kept([model(9), model(0)], tmp_path / "lines.jsonl")) == [model(0)]
    (tmp_path / "work" / "mended").touch()
    lines, names = made(model(9), model(0))
    assert len(lines) == 2 and {"dual-0", "dual-9", "retrained-9"} <= names


def test_a_line_that_a_kill_cut_short_is_made_again_and_stands_alone(made, tmp_path):
    path = tmp_path / "lines.jsonl"
    made(model(0), model(3))
    path.write_text(path.read_text()[:-20])
    assert len(kept([model(0), model(3)], path)) == 1
    (tmp_path / "work" / "dual-3").unlink()
    lines, _ = made(model(0), model(3))
    assert lines == kept([model(0), model(3)], path) and len(path.read_text().splitlines()) == 2


def test_a_control_has_a_line_of_its_own(made):
    """The same model attacked for another class: neither takes the other's line, and a default changes both."""
    subject, control = model(3), Control(subject=model(3))
    assert subject.key in json.loads(control.key) and control.key != subject.key


def test_a_changed_default_or_budget_asks_for_new_attacks(monkeypatch):
    subject, (original, _, retrained) = model(3), model(3).yardsticks
    before = [each.key for each in (subject, original, retrained)]
    monkeypatch.setitem(AMOUNTS, "quick", replace(AMOUNTS["quick"], screening_images=7))
    assert not {each.key for each in (subject, original, retrained)} & {*before}
    monkeypatch.undo()
    monkeypatch.setattr(attacks, "Recipe", lambda: replace(RECIPE, transformer_steps=7))
    assert (original.key, retrained.key != before[2]) == (before[1], True)
    monkeypatch.undo()
    monkeypatch.setattr(RetainPosterior, "defaults", {"steps": 7})
    assert subject.key != before[0] and original.key == before[1]


def test_a_line_and_its_yardsticks_make_what_a_probe_records():
    done = {each.key: attacked(each.who) for each in model(3).yardsticks} | {model(3).key: attacked("erased")}
    line = joined(model(3), done)
    assert {who: rows["value"] for who, rows in line["probes"]["label_mixing"].items()} == SHARES
    assert line["recovery"]["label_mixing"]["value"] == pytest.approx(0.25) and "embedding_reset" not in line["scores"]
    assert joined(model(3), {model(3).key: {"diverged": "at step 3"}}) == {"diverged": "at step 3"}


@pytest.mark.parametrize("default", [False, True])
def test_the_results_are_of_todays_defaults(default):
    path = RESULTS / ("default_probes.jsonl" if default else "probe_table.jsonl")
    wanted = subjects(default=default)
    assert by_key(path).keys() <= {each.key for each in wanted}
    found = kept(wanted, path)
    assert found if default else list(found) == wanted
    for subject, line in found.items():
        if "diverged" not in line:
            models = {"original", "erased"} | ({"retrained"} if subject.forget_class in FLOORS else set())
            assert line["scores"].keys() == models and line["probes"].keys() == {*probe_names()}


@pytest.mark.parametrize("name", ["embedding_restore", "embedding_inversion"])
def test_a_class_that_is_merely_hidden_comes_back(name):
    """On digits, at both budgets: an attack that misses the class under a row reset tells nothing of an erasure."""
    lines = [json.loads(line) for line in attacks.YARDSTICKS.read_text().splitlines()]
    hidden = [line["result"]["probes"][name]["value"] for line in lines if line["subject"]["who"] == "embedding_reset"]
    assert hidden and min(hidden) >= 0.8


def test_the_yardsticks_are_of_todays_attacks():
    lines = [json.loads(line) for line in attacks.YARDSTICKS.read_text().splitlines()]
    assert [line["key"] for line in lines] == [Yardstick(**line["subject"]).key for line in lines]
