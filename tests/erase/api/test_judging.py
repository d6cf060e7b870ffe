"""Inception features, timm classifiers and statistics files: how ImageNet models are scored, on random weights."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchmetrics.image.fid import NoTrainInceptionV3

from erase.api import evaluate, request
from erase.api.data import cache_latents, write_statistics
from erase.api.judging import Judges, protocol_scorer
from eval import features
from eval.moments import load_gaussian
from eval.protocol import PROTOCOLS, named
from eval.reference import load_observations, observe, save_observations
from pipelines.errors import MissingError, UsageError
from pipelines.imagenet import imagenet_classes
from pipelines.model import load, save
from pipelines.sources import held_out_images

CLASSIFIER = "test_resnet.r160_in1k"
SHORT = dataclasses.replace(
    named("quick"), classifier=CLASSIFIER, num_inference_steps=2, num_forget_images=3, num_retain_images=6
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random Inception and classifier weights in the files that the real ones come in."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_: None)
        blank = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    torch.save(blank.state_dict(), folder / "inception.pth")
    save_file(
        timm.create_model(CLASSIFIER.split(".")[0], num_classes=1000).state_dict(), folder / "classifier.safetensors"
    )
    return folder


@pytest.fixture
def judged(weights, monkeypatch):
    """``judged(reference=...)``: where the judges are; the random Inception passes for the published one."""
    digest = hashlib.sha256((weights / "inception.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", digest)
    files = {"classifier": str(weights / "classifier.safetensors"), "inception": str(weights / "inception.pth")}
    return lambda **others: {**files, **others}


@pytest.fixture(scope="module")
def imagenet_model(original_dit, tiny_folder, tmp_path_factory):
    """A small DiT of 1,000 ImageNet classes, as a diffusers folder."""
    folder = tmp_path_factory.mktemp("imagenet")
    path = folder / "dit.pt"
    torch.save(original_dit.random_state(width=48, depth=1, num_classes=1000, grid=2), path)
    path.with_suffix(".dit.json").write_text(json.dumps({"num_attention_heads": 4}))
    save(load(path, vae=str(tiny_folder / "vae")), folder / "model")
    return str(folder / "model")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Four pictures of each of five classes in wnid folders."""
    folder = tmp_path_factory.mktemp("photographs")
    draws = np.random.default_rng(0)
    for label in (3, 207, 208, 360, 999):
        (folder / imagenet_classes()[label].wnid).mkdir()
        for number in range(4):
            pixels = draws.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / imagenet_classes()[label].wnid / f"{number}.png")
    return str(folder)


def test_inception_protocols_score_a_model_of_imagenet_classes(imagenet_model, photographs, judged, tmp_path):
    def scored(reference):
        return evaluate(
            imagenet_model, "golden retriever", original=imagenet_model, protocol=SHORT, progress=False,
            **judged(reference=reference),
        )  # fmt: skip

    record = scored(photographs)
    assert record["feature_space"] == "inception" and record["protocol"]["features"] == "inception"
    assert record["protocol"]["classifier"].startswith(CLASSIFIER) and record["forget_classes"] == [207]
    assert record["reference"]["n"] == 16  # without the four of the erased class
    assert record["original"]["frechet"]["value"] == record["erased"]["frechet"]["value"] > 0
    assert record["original"]["frechet"]["n"] == 6

    # The same pictures as a file of statistics: the class comes out of it exactly.
    observed = observe(held_out_images(load(imagenet_model), photographs), scorer=scorer_of(imagenet_model, judged()))
    save_observations(
        observed, tmp_path / "stats.npz", classifier=record["protocol"]["classifier"], meta={},
        class_names=load(imagenet_model).classes.labels,
    )  # fmt: skip
    again = scored(str(tmp_path / "stats.npz"))
    assert again["original"]["frechet"]["value"] == pytest.approx(
        record["original"]["frechet"]["value"], rel=1e-6, abs=0
    )
    assert again["reference"]["n"] == 16 and again["reference"]["fingerprint"] == record["reference"]["fingerprint"]

    # Statistics of another tool cannot be taken apart: all twenty pictures count.
    with np.load(tmp_path / "stats.npz") as archive:
        np.savez(tmp_path / "adm.npz", mu=archive["mu"], sigma=archive["sigma"])
    other = scored(str(tmp_path / "adm.npz"))
    assert other["original"]["frechet"]["value"] != pytest.approx(
        record["original"]["frechet"]["value"], rel=1e-3, abs=0
    )


def scorer_of(model, files):
    """The scorer of the short protocol."""
    return protocol_scorer(load(model), SHORT, Judges(**files))


def test_statistics_are_made_and_read(imagenet_model, photographs, judged, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "quick", SHORT)
    path = tmp_path / "stats.npz"
    facts = write_statistics(photographs, imagenet_model, path, protocol="quick", judges=Judges(**judged()))
    assert (facts["n"], facts["feature_space"]) == (20, "inception") and 0 <= facts["accuracy"] <= 1
    gaussian, meta = load_gaussian(path)
    assert gaussian.n == 20 and len(gaussian.mean) == 2048 and meta["classifier"] == facts["classifier"]
    names, scorer = load(imagenet_model).classes.labels, scorer_of(imagenet_model, judged())
    kept = load_observations(path, scorer=scorer, class_names=names)
    assert kept.class_labels.bincount().nonzero()[:, 0].tolist() == [3, 207, 208, 360, 999]
    assert kept.predicted is not None

    # Another classifier's predictions say nothing about this one; other classes or features cannot be used at all.
    other = SimpleNamespace(feature_space="inception", name="another")
    assert load_observations(path, scorer=other, class_names=names).predicted is None
    with pytest.raises(UsageError, match="made for a model with other class names"):
        load_observations(path, scorer=scorer, class_names=names[::-1])
    with pytest.raises(UsageError, match="holds inception features, this evaluation uses digits"):
        load_observations(path, scorer=SimpleNamespace(feature_space="digits", name=scorer.name), class_names=names)
    with pytest.raises(UsageError, match=r"--output .*stats.txt must end in \.npz"):
        write_statistics(photographs, imagenet_model, tmp_path / "stats.txt", protocol="quick", judges=Judges())


def test_latents_are_cached_ahead(imagenet_model, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    found = cache_latents(photographs, imagenet_model)
    assert (found["images"], found["classes"], found["smallest_class"]) == (20, 5, 4)
    assert found["latent_shape"] == [4, 4, 4] and found["copies"] == 2
    before = [(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "cache").iterdir()]
    assert cache_latents(photographs, imagenet_model) == found
    assert [(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "cache").iterdir()] == before
    with pytest.raises(UsageError, match="replay is sampled by the first run"):
        cache_latents("replay", imagenet_model)


def test_missing_parts_are_named_before_anything_runs(imagenet_model, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))

    def ask(**asked):
        return request(imagenet_model, ["golden retriever"], output_dir=tmp_path / "run", **asked)

    with pytest.raises(MissingError, match=r"needs the Inception weights .* put https://github.com/.*pth at .*cache"):
        ask(protocol="quick", reference=photographs)
    with pytest.raises(MissingError, match=r"--classifier none.safetensors does not exist"):
        ask(protocol="quick", reference=photographs, classifier="none.safetensors")
    with pytest.raises(UsageError, match=r"--inception x has no effect with --protocol none"):
        ask(protocol="none", inception="x")
    (tmp_path / "inception.pth").touch()
    monkeypatch.setenv("ERASE_INCEPTION", str(tmp_path / "inception.pth"))
    with pytest.raises(UsageError, match="--reference is needed to score this model"):
        ask(protocol="quick")
    with pytest.raises(MissingError, match="--reference nowhere does not exist"):
        ask(protocol="quick", reference="nowhere")
    (tmp_path / "cut.npz").write_bytes(b"PK not an archive")
    with pytest.raises(MissingError, match=r"cut.npz is no whole npz of statistics"):
        ask(protocol="quick", reference=str(tmp_path / "cut.npz"))
    assert ask(protocol="quick", reference=photographs).judges.reference == photographs
    assert not (tmp_path / "run").exists()
