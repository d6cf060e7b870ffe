"""The sweep on a model whose denoiser is known: which conditions there are, what rounding does, what is found."""

import json
from dataclasses import replace

import pytest
import torch

from eval import sweep as sweeping
from eval.evaluate import evaluate
from eval.report import Report, render_report
from eval.sweep import as_int8, conditions, in_precision, outcome, sweep_rows, sweep_table, worst
from pipelines.diffusion import NoiseSchedule
from pipelines.errors import UsageError
from pipelines.sampler import SamplerSettings


@pytest.fixture
def protocol(toy):
    return replace(toy.protocol, num_forget_images=12, num_retain_images=20, num_inference_steps=4)


@pytest.fixture
def swept(toy, original, erased, protocol, monkeypatch):
    """``swept(second=..., known=...)``: the rows of a short sweep of an erasure of class 3."""
    monkeypatch.setattr(sweeping, "SAMPLERS", (("ddim", 4), ("dpm-solver++", 4), ("ddpm", 5)))

    def make(**others):
        models = {"original": original, "erased": others.pop("erased", erased)}
        given = {"forget_classes": [3], "protocol": protocol, "scorer": toy.scorer, "num_images": 6, **others}
        return list(sweep_rows(models, **given))

    return make


def test_every_condition_changes_one_thing_and_none_is_there_twice(toy):
    found = conditions(toy.protocol, NoiseSchedule(), second=True)
    first, second, *others = found
    assert first.settings == toy.protocol.sampler_settings() and not first.second and second.second
    for condition in others:
        changed = [name for name, value in vars(condition.settings).items() if value != vars(first.settings)[name]]
        assert changed in (["guidance_scale"], ["num_inference_steps"], ["sampler", "num_inference_steps"],
                           ["sampler"], ["precision"], [])  # fmt: skip
        assert (condition.weights != "float32") == (changed == [])
    assert {each.settings.guidance_scale for each in found} == {1.0, 1.5, 4.0, 7.5}
    assert {each.settings.sampler for each in found} == {"ddim", "ddpm", "dpm-solver++"}
    assert {each.weights for each in found} == {"float32", "bfloat16", "int8"}
    assert len({replace(each, name="") for each in found}) == len({each.name for each in found}) == len(found) == 14
    assert not any(each.second for each in conditions(toy.protocol, NoiseSchedule(), second=False))
    with pytest.raises(UsageError, match="--num-inference-steps 50 with --sampler dpm-solver"):
        conditions(toy.protocol, NoiseSchedule(50, beta_start=1e-4, beta_end=0.02), second=False)


def test_a_clean_erasure_is_clean_under_every_condition(swept, toy, protocol):
    rows = swept()
    assert [row["erased"]["forget_accuracy"]["value"] for row in rows] == [0] * len(rows)
    assert [row["original"]["forget_accuracy"]["value"] for row in rows] == [1] * len(rows)
    value = rows[0]["erased"]["forget_accuracy"]
    assert value["n"] == 6 and value["high"] == pytest.approx(0.3903, abs=1e-4)  # Wilson, 0 of 6
    assert rows[0]["original"]["forget_probability"]["value"] > 0.99
    assert "forget_accuracy_top5" not in rows[0]["original"]  # of five classes
    assert rows[0]["classifier"] == toy.scorer.name and (rows[0]["num_images"], rows[0]["first_seed"]) == (6, 0)
    assert SamplerSettings(**rows[0]["settings"]) == protocol.sampler_settings()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_class_that_only_guidance_brings_back_is_found(swept, toy, original):
    """Class 3 draws class 4, and the null row lies behind it: guidance 7.5, away from there, ends at class 3."""
    hidden = original.frozen_copy()
    table = hidden.transformer.means.data
    table[5] = table[4] + (table[4] - table[3]) / 6.5
    table[3] = table[4]
    rows = swept(erased=hidden)
    accuracy = {row["condition"]: row["erased"]["forget_accuracy"]["value"] for row in rows}
    assert accuracy["guidance 7.5"] == 1 and next(iter(accuracy.values())) == accuracy["guidance 1.5"] == 0
    assert worst(rows)["erased"]["forget_accuracy"]["value"] == 1
    assert outcome(rows).startswith(f"The highest forget accuracy under any of these {len(rows)} conditions is 100.0 %")


def test_the_images_are_the_first_of_the_protocol(swept, toy, original, erased, protocol):
    """With as many images as the protocol draws, the first row is what the evaluation says."""
    rows = swept(num_images=protocol.num_forget_images)
    record = evaluate(
        {"original": original, "erased": erased}, forget_classes=[3], protocol=protocol, scorer=toy.scorer,
        reference=toy.reference, metrics=["forget_accuracy"],
    )  # fmt: skip
    for model in ("original", "erased"):
        for key, entry in record[model].items():
            assert rows[0][model][key]["value"] == pytest.approx(entry["value"], abs=1e-6)
            assert rows[0][model][key]["n"] == entry["n"] == 12


def test_a_second_classifier_sees_the_same_images(swept, toy):
    class Shifted:
        """Calls class c what the first calls c - 1."""

        name = "shifted"

        def logits_and_features(self, images):
            logits, features = toy.scorer.logits_and_features(images)
            return logits.roll(1, 1), features

    first, second, *_ = swept(second=Shifted())
    assert (second["condition"], second["classifier"]) == ("second classifier", "shifted")
    assert second["settings"] == first["settings"] and second["original"]["forget_accuracy"]["value"] == 0


def test_a_sweep_goes_on_where_it_was_cut_short(swept, monkeypatch):
    rows = swept()
    marked = [{**row, "kept": True} for row in rows]
    again = swept(known=marked[:2])
    assert [row.pop("kept", False) for row in again] == [True, True] + [False] * (len(rows) - 2)
    assert again == rows
    assert not any("kept" in row for row in swept(known=marked, num_images=5))  # other settings: other rows


def test_int8_is_symmetric_per_output_channel():
    weight = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 0.1, 0, 1e-3])[
        :, None, None
    ]  # fmt: skip
    rounded = as_int8(weight)
    steps = weight.abs().amax((1, 2), keepdim=True) / 127
    multiples = rounded[steps.flatten() > 0] / steps[steps.flatten() > 0]
    torch.testing.assert_close(multiples, multiples.round(), atol=1e-4, rtol=0)
    assert multiples.abs().amax((1, 2)).round().tolist() == [127] * 4  # each channel uses its whole range
    assert ((rounded - weight).abs() <= steps / 2 * 1.001).all() and (rounded[3] == 0).all()
    assert torch.equal(as_int8(weight[0, 0]), weight[0, 0])  # a bias
    torch.testing.assert_close(as_int8(rounded), rounded)


def test_rounded_weights_are_a_copy(original):
    before = original.transformer.means.detach().clone()
    for weights in ("bfloat16", "int8"):
        rounded = in_precision(original, weights).transformer.means
        assert rounded.dtype == torch.float32 and not torch.equal(rounded, before)
        assert (rounded - before).abs().max() < 0.02 * before.abs().max()
    assert torch.equal(in_precision(original, "bfloat16").transformer.means, before.bfloat16().float())
    assert torch.equal(original.transformer.means, before) and in_precision(original, "float32") is original


def test_the_report_shows_the_sweep_and_its_worst_row(swept, toy, original, erased, protocol):
    record = evaluate(
        {"original": original, "erased": erased}, forget_classes=[3], protocol=protocol, scorer=toy.scorer,
        reference=toy.reference,
    )  # fmt: skip
    assert "Under other conditions" not in render_report(Report(record=record))
    rows = swept()
    assert not any(row["worst"] for row in sweep_table(rows))  # all are 0
    rows[3]["erased"]["forget_accuracy"] |= {"value": 0.5, "low": 0.2, "high": 0.8}
    page = render_report(Report(record={**record, "sweep": rows}))
    assert "Under other conditions" in page and page.count('class="worst"') == 1
    assert "50.0\N{NO-BREAK SPACE}% (95\N{NO-BREAK SPACE}% interval 20.0 to 80.0" in page
    assert [row["worst"] for row in sweep_table(rows)].index(True) == 3
    assert sweep_table(rows)[0]["others"] == ["-", "0.0 %"]
