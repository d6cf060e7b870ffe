"""retain_posterior on a tiny model of a thousand classes: several erased at once, one drawn label or the whole sum."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from erase.configure import configure
from erase.erasure import run_erasure
from erase.methods.retain_posterior import mixture_prediction
from erase.workspace import Batch, Workspace
from pipelines.classes import ClassNames
from pipelines.diffusion import Noised
from pipelines.embedding import label_table, tie_embedders
from pipelines.latents import Latents
from pipelines.model import DiT, save
from pipelines.posterior import PosteriorNetwork, PosteriorRecipe
from pipelines.posterior_head import HeadPosterior

ERASED = (0, 207, 208, 500, 999)
NUM_CLASSES = 1000


@pytest.fixture(scope="module")
def thousand(loaded_dit):
    """Random weights; everything but the transformer and the names is the tiny model's."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=4,
        patch_size=2, num_embeds_ada_norm=NUM_CLASSES,
    ).eval()  # fmt: skip
    for parameter in transformer.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    first, *others = (block.norm1.emb for block in transformer.transformer_blocks)
    for other in others:
        other.load_state_dict(first.state_dict())
    tie_embedders(transformer, time_embedding="diffusers")
    names = ClassNames(tuple(f"class {index}" for index in range(NUM_CLASSES)))
    facts = {**vars(loaded_dit), "transformer": transformer, "classes": names, "provenance": {}}
    return DiT(**facts)


@pytest.fixture(params=["network", "head"])
def workspace(request, thousand):
    """Five classes to erase, with a random posterior of either kind."""
    draws, labels = torch.Generator().manual_seed(1), torch.arange(NUM_CLASSES)
    mean = torch.randn(NUM_CLASSES, 1, 4, 4, 4, generator=draws)
    latents = Latents.in_memory(mean=mean, std=torch.zeros_like(mean), class_labels=labels)
    forget, retain = latents.of_classes(list(ERASED)), latents.without_classes(list(ERASED))
    found = Workspace(model=thousand.frozen_copy(), forget_classes=ERASED, forget=forget, retain=retain, seed=0)
    found.reference = thousand.frozen_copy()
    torch.manual_seed(2)
    network = PosteriorNetwork(thousand.latent_shape, NUM_CLASSES, width=16, depth=1)
    found.posterior = (network if request.param == "network" else HeadPosterior(found.reference)).eval()
    return found


def test_the_sum_is_over_the_retained_classes_alone(workspace, method_of):
    noised = method_of("retain_posterior").forget_batch(workspace, 0, 0, 2).noised
    noise, _ = mixture_prediction(workspace, noised)
    retained = [label for label in range(NUM_CLASSES) if label not in ERASED]
    shares = workspace.posterior(noised.noisy_latents, noised.timesteps)[:, retained].softmax(1)
    for index in range(2):
        rows = Noised(*(value[index : index + 1].repeat_interleave(995, 0) for value in vars(noised).values()))
        output = workspace.reference_output(rows, torch.tensor(retained))[:, :4]
        expected = (shares[index, :, None, None, None] * output).sum(0)
        torch.testing.assert_close(noise[index], expected, rtol=1e-3, atol=1e-5)


def test_drawn_labels_are_retained_and_average_to_the_sum(workspace, method_of):
    method = method_of("retain_posterior", replacement="posterior")
    batch = method.forget_batch(workspace, 0, 0, 2)
    mixture, _ = mixture_prediction(workspace, batch.noised)
    drawn = torch.stack([method.drawn_labels(workspace, Batch(batch.noised, seed)) for seed in range(80)])
    assert not torch.isin(drawn, torch.tensor([*ERASED, NUM_CLASSES])).any() and len(drawn.unique()) > 60
    targets = torch.stack([method.target(workspace, Batch(batch.noised, seed))[0] for seed in range(250)])
    error = (targets.mean(0) - mixture).abs() / (targets.std(0) / 250**0.5).clamp(min=1e-3)
    assert error.max() < 5


@pytest.mark.parametrize(("mixture", "posterior"), [("draw", "head"), ("sum", "head"), ("draw", "auto")])
def test_five_classes_are_erased_at_once(thousand, tmp_path, monkeypatch, mixture, posterior):
    """Every erased row and the null row are trained; the posterior is made from replay."""
    from erase import erasure

    monkeypatch.setattr(erasure, "recipe_of", lambda kind, num_classes: PosteriorRecipe(steps=2, batch_size=8))
    folder = save(thousand, tmp_path / "model")
    config = configure(
        str(folder), ERASED, method="retain_posterior", data="replay",
        options={"steps": 3, "forget_batch_size": 10, "retain_batch_size": 4, "replay_per_class": 1,
                 "posterior": posterior, "mixture": mixture, "replacement": "posterior"},
    )  # fmt: skip
    erased = run_erasure(config)
    before, after = (label_table(each.transformer).detach() for each in (erased.original, erased.model))
    moved = (after - before).abs().amax(dim=1)
    assert (moved[[*ERASED, NUM_CLASSES]] > 0).all() and after.isfinite().all()
