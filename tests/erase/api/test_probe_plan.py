"""``erase probe --dry-run``: what it counts is what a probe then does, and nothing is loaded or written."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from erase.api import probe_plan, probing
from erase.api.probing import probe
from erase.cli.probe import probe as command
from erase.cli.run import run
from erase.configure import configure
from eval.cost import Cost, probe_cost
from eval.features import ClassifierScorer
from eval.probe import AMOUNTS, probe_names
from eval.protocol import named
from pipelines.errors import MissingError, UsageError
from pipelines.model import DiT


def test_the_counted_passes_and_images_are_those_of_the_probes(scored, monkeypatch):
    found = probe_plan.plan(scored.run_dir, probes=["relearning"])["probes"]
    assert list(found) == ["relearning"]
    seen = dict.fromkeys(("forward_rows", "backward_rows", "images"), 0)
    predict, score, keys = DiT.predict, ClassifierScorer.logits_and_features, iter(range(99))

    def predicting(model, noisy_latents, timesteps, class_labels):
        output = predict(model, noisy_latents, timesteps, class_labels)
        seen["forward_rows"] += len(class_labels)
        seen["backward_rows"] += len(class_labels) * output.requires_grad
        return output

    def scoring(scorer, images):
        seen["images"] += len(images)
        return score(scorer, images)

    monkeypatch.setattr(DiT, "predict", predicting)
    monkeypatch.setattr(ClassifierScorer, "logits_and_features", scoring)
    monkeypatch.setattr(probing, "redraw", lambda *told, **facts: None)  # the report draws its own pictures
    monkeypatch.setattr(probing, "attack_key", lambda *facts: str(next(keys)))  # this erasure is the reset itself
    probe(scored.run_dir, probes=["relearning"], progress=False)
    assert seen == {field: sum(entry[field] for entry in found.values()) for field in seen}


def test_nothing_is_loaded_or_written_and_bad_values_are_refused(scored, judged_model, monkeypatch):
    before = sorted(scored.run_dir.rglob("*"))
    for name in ("load", "load_original"):
        monkeypatch.setattr(probing, name, None)
    found = probe_plan.plan(scored.run_dir, retrained=judged_model)
    assert set(found["probes"]) == set(probe_names())
    assert found["subjects"] == [*probe_plan.SUBJECTS, "retrained"]
    assert found["tflop"] == pytest.approx(sum(entry["tflop"] for entry in found["probes"].values()))

    # On the command line lines, or one object.
    shown = CliRunner().invoke(command, [str(scored.run_dir), "label_mixing", "--dry-run"])
    assert shown.exit_code == 0 and "rows forward" in shown.output and "label_mixing" in shown.output
    printed = CliRunner().invoke(command, [str(scored.run_dir), "label_mixing", "--dry-run", "--json"])
    four = json.loads(printed.output)["probes"]["label_mixing"]
    assert found["probes"]["label_mixing"]["images"] * 4 == four["images"] * 5
    assert sorted(scored.run_dir.rglob("*")) == before

    with pytest.raises(UsageError, match=r"--budget 'vast' is not one of quick, full"):
        probe_plan.plan(scored.run_dir, budget="vast")
    with pytest.raises(MissingError, match=r"nowhere"):
        probe_plan.plan(scored.run_dir, retrained="/nowhere")


def test_flops_follow_the_counts(configured, loaded_dit):
    """A row backward counts as two forward, training a classifier once for all subjects."""
    cost = Cost(forward_rows=2, backward_rows=3, images=5, classifier_flops=7.0, training_flops=11.0)
    assert probe_plan.attack_flops(cost, 100.0, 10.0) == 2 * 100 + 3 * 200 + 5 * 10 + 7
    config = configured("esd")
    terms = probe_plan.terms_of(config, named("small"), budget="quick")
    one, four = (probe_plan.costs(["classifier_guidance"], terms, 10.0, num_attacks=count) for count in (1, 4))
    trained = probe_cost("classifier_guidance", terms).training_flops
    one, four = (1e12 * each["classifier_guidance"]["tflop"] - trained for each in (one, four))
    assert four == pytest.approx(4 * one)
    with FlopCounterMode(display=False) as counter:
        loaded_dit.decode(torch.zeros(1, *loaded_dit.latent_shape))
    assert probe_plan.decode_flops(config) == counter.get_total_flops() > 0


def test_a_class_that_was_erased_before_is_no_neighbour(configured, monkeypatch):
    config, protocol = configured("esd"), named("small")
    assert probe_plan.terms_of(config, protocol, budget="quick").num_others == 9
    earlier = {"erased": {"forget_classes": [0, 1]}}
    monkeypatch.setattr(probe_plan, "read_provenance", lambda model: earlier)
    assert probe_plan.terms_of(config, protocol, budget="quick").num_others == 7


def test_every_erased_class_is_counted_and_the_control_once(configured):
    config, protocol, cpu = configured("esd"), named("small"), torch.device("cpu")
    both = dataclasses.replace(config, forget_classes=(3, 4))
    one, two = (
        probe_plan.attacks_plan(each, protocol, names=["label_mixing"], budget="quick", floor=True, device=cpu)
        for each in (config, both)
    )
    rows = [plan["probes"]["label_mixing"]["images"] for plan in (one, two)]
    assert rows[0] * 9 == rows[1] * 5  # four subjects and the control, then four of each class and the control


def test_the_cost_on_xl2_stands_in_the_docs():
    """Counted from the published architecture alone: rows of the network, images, operations at both budgets."""
    config, quick = configure("facebook/DiT-XL-2-256", [207]), named("quick")
    plans = [
        probe_plan.attacks_plan(
            config, quick, names=probe_names(), budget=budget, floor=False, device=torch.device("cpu")
        )
        for budget in AMOUNTS
    ]
    page = (Path(__file__).parents[3] / "docs" / "probes.md").read_text()
    for name in probe_names():
        less, more = (plan["probes"][name] for plan in plans)
        counts = f"{less['forward_rows']:,} | {less['backward_rows']:,} | {less['images']:,}"
        assert f"| `{name}` | {counts} | {less['tflop'] / 1000:.1f} | {more['tflop'] / 1000:.1f} |" in page
    totals = " | ".join(f"{plan['tflop'] / 1000:.1f}" for plan in plans)
    assert f"| together | | | | {totals} |" in page


def test_the_plan_of_a_run_holds_the_attacks_of_its_gates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["three", "--model", "digits", "--dry-run", "--gate"]
    asked = CliRunner().invoke(
        run, [*words, "recovery.label_mixing<=1, retain_drop<=1", "--json"], catch_exceptions=False
    )
    attacks = json.loads(asked.stdout)["attacks"]
    assert list(attacks["probes"]) == ["label_mixing"] and attacks["subjects"] == [*probe_plan.SUBJECTS]
    text = CliRunner().invoke(run, [*words, "recovery.label_mixing<=1"]).stdout
    assert "\nthen, for the gates:\nbudget     quick" in text and "label_mixing  " in text
    refused = CliRunner().invoke(run, [*words, "recovery.label_mixing<=1", "--retrained", "digits"])
    assert isinstance(refused.exception, UsageError) and "has seen three" in str(refused.exception)

    # The row probe is a part of every run, unless it is measured from a floor.
    plain = CliRunner().invoke(run, [*words, "recovery.embedding_restore<=1", "--json"]).stdout
    assert "attacks" not in json.loads(plain) and not any(tmp_path.iterdir())
