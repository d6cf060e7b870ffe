"""The declared cost of every probe against what it really does, on a DiT of the original layout with 32x32 latents."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL

from eval.cost import Cost, Terms, drawing, probe_cost, training
from eval.features import ClassifierScorer
from eval.probe import AMOUNTS, Budget, Relearning, load_probe, probe_names
from eval.probes import classifier_guidance, embedding_inversion, label_mixing, relearning
from eval.protocol import named
from pipelines.classifier import Classifier, build_classifier
from pipelines.companion import companion_path
from pipelines.errors import UsageError
from pipelines.latents import Latents
from pipelines.model import load
from pipelines.posterior import PosteriorRecipe
from pipelines.posterior_head import gradient_flops, training_flops

NUM_CLASSES, FORGET = 5, 3
SMALL = {"screening_images": 1, "inversion_images": 3, "retained_images": 4, "classifier_steps": 1}
SHAPES = {  # the budgets with as many starts, attacks and counted steps, or nearly, and little in each
    "quick": replace(
        AMOUNTS["quick"], **SMALL, inversion_steps=(1, 2), relearning_steps=(1, 2, 3), relearning_within=3
    ),
    "full": replace(
        AMOUNTS["full"], **SMALL, inversion_steps=(1, 2, 3), relearning_steps=(1, 2), relearning_within=1,
        relearnings=(Relearning(num_images=2), Relearning(num_others=3), Relearning(rank=2)),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def original(original_dit, tmp_path_factory):
    """Random weights of width 64 and depth 4 in an original checkpoint, and a thin VAE of eight-fold reduction."""
    folder = tmp_path_factory.mktemp("original")
    state = original_dit.random_state(width=64, depth=4, num_classes=NUM_CLASSES, grid=16)
    torch.save(state, folder / "dit.pt")
    companion = {"num_attention_heads": 2, "id2label": dict(enumerate("abcde"))}
    companion_path(folder / "dit.pt").write_text(json.dumps(companion))
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2, latent_channels=4, sample_size=256,
        mid_block_add_attention=False,
    ).save_pretrained(folder / "vae")  # fmt: skip
    model = load(folder / "dit.pt", vae=str(folder / "vae"))
    assert model.latent_shape == (4, 32, 32) and model.image_size == 256
    return model


@pytest.fixture(scope="module")
def attacked(original):
    """The original, an erased copy, their images and a classifier, everything drawn at random."""
    torch.manual_seed(0)
    network = build_classifier(
        "test_resnet", num_classes=NUM_CLASSES, input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3
    ).network  # fmt: skip
    classifier = Classifier(name="random", network=network, input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    mean = torch.randn(2 * NUM_CLASSES, 1, *original.latent_shape)
    labels = torch.arange(NUM_CLASSES).repeat(2)
    latents = Latents.in_memory(mean=mean, std=torch.zeros_like(mean), class_labels=labels)
    erased = copy.copy(original)
    erased.transformer = copy.deepcopy(original.transformer)
    scorer = ClassifierScorer(classifier, feature_space="random")
    return SimpleNamespace(original=original, erased=erased, latents=latents, scorer=scorer)


@pytest.fixture
def seen(attacked):
    """What hooks on both networks, and on the first block of each, count while a test runs."""
    found, handles = dict.fromkeys(("forward_rows", "backward_rows", "images", "first_block"), 0), []

    def count(module, args, options, output):
        found["forward_rows"] += len(options["class_labels"])
        found["backward_rows"] += len(options["class_labels"]) * output[0].requires_grad

    def count_block(module, args, output):
        found["first_block"] += len(output)

    for model in (attacked.original, attacked.erased):
        handles.append(model.transformer.register_forward_hook(count, with_kwargs=True))
        handles.append(model.transformer.transformer_blocks[0].register_forward_hook(count_block))
    yield found
    for handle in handles:
        handle.remove()


class CountingScorer:
    """A scorer that counts its images."""

    def __init__(self, scorer, seen):
        self.scorer, self.seen, self.name = scorer, seen, scorer.name

    def logits_and_features(self, images):
        self.seen["images"] += len(images)
        return self.scorer.logits_and_features(images)


@pytest.fixture
def declared(attacked, seen, monkeypatch):
    """``declared(name, amount)``: runs a probe in small batches; what it declares, and on what terms."""
    for module in (embedding_inversion, relearning):
        monkeypatch.setattr(module, "BATCH_SIZE", 3)
    monkeypatch.setattr(label_mixing, "WEIGHTS", (0.5,))
    monkeypatch.setattr(classifier_guidance, "SCALES", (1.0, 2.0))
    protocol = replace(named("small"), num_inference_steps=3, guidance_scale=1.5)

    def run(name, amount):
        shared = {"amount": amount, "protocol": protocol, "num_images": 2}
        scorer = CountingScorer(attacked.scorer, seen)
        budget = Budget(original=attacked.original, scorer=scorer, batch_size=2, images=attacked.latents, **shared)
        load_probe(name)(attacked.erased, FORGET, budget)
        config = attacked.original.transformer.config
        terms = Terms(transformer_config=config, row_flops=1e6, num_others=NUM_CLASSES - 1, **shared)
        return probe_cost(name, terms), terms

    return run


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", probe_names())
def test_a_probe_takes_exactly_what_it_declares(declared, seen, name, shape):
    cost, terms = declared(name, SHAPES[shape])
    counted = {field: getattr(cost, field) for field in ("forward_rows", "backward_rows", "images")}
    assert counted == {field: seen[field] for field in counted} and cost.images > 0

    # The first block runs for whole passes, and for the classifier of noisy latents that is a head on this network.
    of_classifier = seen["first_block"] - seen["forward_rows"]
    config = terms.transformer_config
    if name != "classifier_guidance":
        assert of_classifier == 0 == cost.classifier_flops == cost.training_flops
        return
    trained = PosteriorRecipe(steps=1, batch_size=128)
    assert of_classifier == cost.forward_rows + 128
    assert cost.training_flops == training_flops("head", config, trained, row_flops=1e6)
    assert cost.classifier_flops == cost.forward_rows * gradient_flops("head", config, row_flops=1e6)


def test_costs_add_and_multiply():
    small = named("small")
    assert drawing(small, 3) == Cost(forward_rows=3 * 20, images=3)
    assert drawing(replace(small, guidance_scale=2.0), 3, skipped_steps=5).forward_rows == 3 * 15 * 2
    assert training(4, batch_size=8) * 2 + drawing(small, 1) == Cost(forward_rows=84, backward_rows=64, images=1)


def test_fewer_classes_leave_fewer_mixes():
    terms = Terms(
        amount=AMOUNTS["quick"], protocol=named("small"), transformer_config={}, row_flops=1.0, num_others=1,
        num_images=250,
    )  # fmt: skip
    assert probe_cost("label_mixing", terms).images == 250 + 20 * (1 + 3 * 3)  # pairs of own, null and one neighbour
    assert probe_cost("label_mixing", replace(terms, num_others=9)).images == 250 + 20 * (1 + 3 * 10)


def test_an_unknown_probe_has_no_cost():
    with pytest.raises(UsageError, match=r"probe 'magic' is not one of"):
        probe_cost("magic", None)


def test_guidance_by_a_network_counts_its_weights():
    """Small latents: the classifier is no part of the frozen model."""
    config = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "sample_size": 4,
              "num_embeds_ada_norm": 10}  # fmt: skip
    terms = Terms(
        amount=AMOUNTS["quick"], protocol=named("small"), transformer_config=config, row_flops=1e6, num_others=9
    )
    rows = 20 * (2 * len(classifier_guidance.SCALES) * 20 + 250)
    assert probe_cost("classifier_guidance", terms).classifier_flops == rows * gradient_flops(
        "network", config, row_flops=0.0
    )
