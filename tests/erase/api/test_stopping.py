"""The early stop of a run: who judges it, and that it is never the classifier that scores."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import save_file

from erase.api import judging, request, run, stopping
from erase.api.judging import Judges
from erase.api.plan import count
from erase.api.stopping import EarlyStopScore, early_stop_score
from erase.rundir import RunDir
from eval.protocol import named
from pipelines.classifier import build_classifier
from pipelines.errors import MissingError, UsageError
from pipelines.model import load
from pipelines.posterior import PosteriorRecipe

OPTIONS = {
    "steps": 4, "forget_batch_size": 8, "retain_batch_size": 8, "replay_per_class": 20, "stop_below": 0.1,
    "stop_every": 2,
}  # fmt: skip


@pytest.fixture
def go(tiny_folder, tmp_path, erase_cache, monkeypatch):
    """``go("nine", model=..., stop_classifier=...)``: a run of the tiny model that may stop early."""
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))
    monkeypatch.setattr(stopping, "PosteriorRecipe", lambda: PosteriorRecipe(steps=40, batch_size=32))

    def make(name, *, model=tiny_folder, protocol="none", reference=None, **options):
        return run(
            str(model), name, method="gradient_ascent", protocol=protocol, reference=reference,
            options={**OPTIONS, **options}, output_dir=tmp_path / "run", progress=False,
        )  # fmt: skip

    return make


def test_the_score_is_the_share_that_the_judge_sees_on_the_same_noise(loaded_dit):
    seen = []

    def judge(_, latents):
        seen.append(latents)
        return torch.where(torch.arange(len(latents)) % 5 == 0, 0, 3)

    score = EarlyStopScore(judge, (3, 4))
    assert score(loaded_dit) == {"forget_accuracy": pytest.approx(0.4), "retain_accuracy": pytest.approx(0.03)}
    score(loaded_dit)
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3]) and len(seen[0]) == stopping.NUM_IMAGES


def test_a_classifier_of_latents_judges_and_no_other_is_loaded(go, monkeypatch):
    monkeypatch.setattr(judging, "load_classifier", None)
    result = go("nine")
    checks = [line for line in RunDir(result.run_dir).read_metrics() if "forget_accuracy" in line]
    assert [line["step"] for line in checks] == [2, 4]
    assert all(0 <= line["retain_accuracy"] <= 1 for line in checks)


def test_a_judge_that_hardly_sees_the_class_is_refused_before_anything_is_written(go, tmp_path):
    with pytest.raises(UsageError, match=r"--stop-below 0\.1: the classifier made from the data recognises .* only 1"):
        go("one")
    assert not (tmp_path / "run").exists()


def test_the_classifier_that_scores_is_refused_under_any_name(go, judged_model, pictures, tmp_path):
    shutil.copytree(f"{judged_model}/classifier", tmp_path / "copy")
    for name in (judged_model, f"{judged_model}/classifier", str(tmp_path / "copy")):
        with pytest.raises(
            UsageError, match=r"--stop-classifier .* is the classifier that scores: name another, a timm"
        ):
            go("nine", model=judged_model, protocol="small", reference=pictures, stop_classifier=name)
    assert not (tmp_path / "run").exists()


def test_what_is_no_classifier_of_these_classes_is_refused(go, judged_model, tmp_path):
    imagenet = build_classifier("test_resnet", num_classes=1000, input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    weights = {name: each.contiguous() for name, each in imagenet.network.state_dict().items()}
    save_file(weights, tmp_path / "imagenet.safetensors")
    for name, kind, match in (
        (str(tmp_path), UsageError, r"--stop-classifier .* is no classifier: name a timm model, NAME:WEIGHTS"),
        ("resnet0", UsageError, r"--stop-classifier resnet0 is no classifier"),
        ("test_resnet:none.safetensors", MissingError, r"the weights none\.safetensors do not exist"),
    ):
        with pytest.raises(kind, match=match):
            request(judged_model, ["nine"], protocol="none", options={**OPTIONS, "stop_classifier": name})
    with pytest.raises(UsageError, match=r"knows 1000 classes, the model has 10"):
        go("nine", stop_classifier=f"test_resnet:{tmp_path}/imagenet.safetensors")
    with pytest.raises(UsageError, match=r"--stop-classifier resnet18 has no effect: without --stop-below"):
        request(judged_model, ["nine"], protocol="none", options={"stop_classifier": "resnet18"})


def test_a_named_classifier_judges_decoded_images(go, tiny_folder, monkeypatch):
    class Decided:
        """Calls every image nine."""

        num_classes = 10

        def predict(self, images):
            assert images.dtype == torch.uint8 and images.shape[1:] == (3, 16, 16)
            return torch.full((len(images),), 9)

    monkeypatch.setattr(stopping, "load_given_classifier", lambda *_, **__: Decided())
    asked = request(str(tiny_folder), ["nine"], options={**OPTIONS, "stop_classifier": "resnet18"}, protocol="none")
    score = early_stop_score(asked.config, None, Judges(), device=torch.device("cpu"), progress=False)
    assert score(load(tiny_folder)) == {"forget_accuracy": 1, "retain_accuracy": 0}


def test_the_judge_is_part_of_a_run_but_its_default_leaves_old_runs_as_they_are(configured):
    plain = configured("gradient_ascent", stop_below=0.1)
    assert "stop_classifier" not in plain.identity()
    assert dataclasses.replace(plain, stop_classifier="resnet18").hash != plain.hash


def test_the_plan_counts_the_judge_that_has_to_be_trained(configured):
    cpu, protocol = torch.device("cpu"), named("small")
    plain = configured("gradient_ascent")
    flops = {
        name: count(configured("gradient_ascent", **options), protocol, cpu)["tflop"]
        for name, options in (("none", {}), ("latent", {"stop_below": 0.1}),
                              ("named", {"stop_below": 0.1, "stop_classifier": "resnet18"}))
    }  # fmt: skip
    assert flops["latent"] > flops["none"] == flops["named"] and plain.engine.stop_below == 0
