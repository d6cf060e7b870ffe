"""The head on the frozen network's blocks: what it reads, what it learns, what it costs, and when it is taken."""

import pytest
import torch
from safetensors.torch import load_file

from pipelines.diffusion import draw_noise
from pipelines.errors import UsageError
from pipelines.posterior import PosteriorNetwork, PosteriorRecipe
from pipelines.posterior_head import (
    BlockHead,
    HeadPosterior,
    depth_share,
    head_key,
    make_posterior,
    num_read,
    posterior_kind,
    posterior_weights,
    recipe_of,
    training_flops,
)

RECIPE = PosteriorRecipe(steps=150, batch_size=64)
SHORT = PosteriorRecipe(steps=4, batch_size=16)


def made(model, latents, recipe=SHORT, *, seed=0, cache_dir=None, precision="fp32"):
    """A head posterior."""
    return make_posterior(model, latents, "head", recipe, seed=seed, cache_dir=cache_dir, precision=precision)


def noised_of(model, latents):
    """Every latent at a random timestep."""
    draws = torch.Generator().manual_seed(1)
    return draw_noise(model.noise_schedule, latents.mean[:, 0], latents.class_labels, generator=draws)


def weights(posterior):
    """All weights of its own as one vector."""
    return torch.cat([each.flatten() for each in posterior.state_dict().values()])


def test_it_reads_the_middle_block_under_the_null_label_and_runs_no_further(loaded_dit, toy_latents):
    """The same block of a whole forward pass is the reference."""
    blocks, found, reached = loaded_dit.transformer.transformer_blocks, [], []
    noised = noised_of(loaded_dit, toy_latents)
    nulls = torch.full_like(noised.class_labels, loaded_dit.null_class)
    assert num_read(loaded_dit.transformer.config) == 1
    handle = blocks[0].register_forward_hook(lambda module, inputs, tokens: found.append(tokens))
    with torch.no_grad():
        loaded_dit.predict(noised.noisy_latents, noised.timesteps, nulls)
    handle.remove()

    handle = blocks[1].register_forward_hook(lambda *args: reached.append(args))
    with torch.no_grad():
        features = HeadPosterior(loaded_dit).features(noised.noisy_latents, noised.timesteps)
    handle.remove()
    assert not reached
    torch.testing.assert_close(features, torch.cat([found[0].mean(1), found[0].std(1)], dim=1))


def test_its_logits_are_linear_in_normalised_features_at_each_timestep():
    head, draws = BlockHead(8, 5), torch.Generator().manual_seed(0)
    head.norm = torch.nn.Identity()
    left, right = torch.randn(2, 6, 16, generator=draws)
    times = torch.arange(6) * 100
    middle = (head(left, times) + head(right, times)) / 2
    torch.testing.assert_close(head((left + right) / 2, times), middle)
    assert (head(left, times) - head(left, times + 50)).abs().max() > 0


def test_it_learns_classes_and_gives_the_retained_posterior(loaded_dit, toy_latents):
    """The interface is that of the network: probabilities of the retained classes, exactly zero elsewhere."""
    before = {name: each.clone() for name, each in loaded_dit.transformer.state_dict().items()}
    posterior = made(loaded_dit, toy_latents, RECIPE)
    clean = torch.full((120,), 5)
    latents = toy_latents.mean[:, 0]
    assert (posterior(latents, clean).argmax(1) == toy_latents.class_labels).float().mean() > 0.8
    shares = posterior.retained(noised_of(loaded_dit, toy_latents), (3, 8))
    assert shares.shape == (120, 10) and (shares[:, [3, 8]] == 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(120))
    assert not posterior.training and not any(each.requires_grad for each in posterior.parameters())
    assert all(torch.equal(before[name], each) for name, each in loaded_dit.transformer.state_dict().items())


def test_only_the_head_is_its_own(loaded_dit):
    posterior = HeadPosterior(loaded_dit)
    assert all(name.startswith("head.") for name in posterior.state_dict())
    assert posterior_weights("head", loaded_dit.transformer.config) == sum(map(torch.numel, posterior.parameters()))
    network = PosteriorNetwork(loaded_dit.latent_shape, loaded_dit.num_classes)
    assert posterior_weights("network", loaded_dit.transformer.config) == sum(map(torch.numel, network.parameters()))


def test_gradients_reach_the_latents_through_the_frozen_blocks(loaded_dit, toy_latents):
    """Guidance by a classifier needs them."""
    posterior, inputs = made(loaded_dit, toy_latents), toy_latents.mean[:4, 0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(posterior(inputs, torch.full((4,), 100)).square().sum(), inputs)
    assert gradient.abs().max() > 0


def test_the_cache_gives_back_the_same_bits_for_the_same_network_alone(loaded_dit, tiny_dit, toy_latents, tmp_path):
    first = made(loaded_dit, toy_latents, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"posterior-head-{head_key(first, toy_latents, SHORT, 0)}.safetensors"
    assert load_file(path).keys() == first.state_dict().keys()
    again = made(loaded_dit, toy_latents, cache_dir=tmp_path)
    assert torch.equal(weights(first), weights(again)) and len(list(tmp_path.iterdir())) == 1

    # Other weights, data, recipes, precisions and seeds are other heads.
    tiny_dit.transformer.proj_out_2.bias.data += 1
    keys = {
        head_key(first, toy_latents, SHORT, 0),
        head_key(HeadPosterior(tiny_dit), toy_latents, SHORT, 0),
        head_key(first, toy_latents.subset(torch.arange(100)), SHORT, 0),
        head_key(first, toy_latents, RECIPE, 0),
        head_key(first, toy_latents, SHORT, 1),
        head_key(HeadPosterior(loaded_dit, precision="bf16"), toy_latents, SHORT, 0),
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("choice", "shape", "kind"),
    [
        ("auto", (4, 4, 4), "network"),
        ("auto", (4, 8, 8), "network"),
        ("auto", (4, 32, 32), "head"),
        ("head", (4, 4, 4), "head"),
        ("network", (4, 32, 32), "network"),
    ],
)
def test_the_kind_follows_from_the_choice_and_the_size_of_a_latent(choice, shape, kind):
    assert posterior_kind(choice, shape) == kind


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match=r"--posterior 'mlp' is not one of auto, network, head"):
        posterior_kind("mlp", (4, 4, 4))


def test_the_flops_of_training_are_those_of_the_added_weights_and_of_the_blocks_that_are_read(loaded_dit):
    config, recipe = loaded_dit.transformer.config, PosteriorRecipe(steps=7, batch_size=3)
    for kind, read in (("network", 0.0), ("head", depth_share(config))):
        expected = (6 * posterior_weights(kind, config) + read * 1e9) * 21
        assert training_flops(kind, config, recipe, row_flops=1e9) == expected
    assert depth_share({"num_layers": 28}) == 0.5 and depth_share({"num_layers": 1}) == 1


def test_more_classes_get_more_draws():
    assert recipe_of("network", 1000) == PosteriorRecipe()
    assert recipe_of("head", 1000).steps == 5 * recipe_of("head", 10).steps == 5000
