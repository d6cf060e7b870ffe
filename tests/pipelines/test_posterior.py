"""The posterior of noisy latents: what it learns, what it never gives, and that one call always makes one network."""

import pytest
import torch
from safetensors.torch import load_file

from pipelines.diffusion import draw_noise
from pipelines.digits.data import digit_images
from pipelines.latents import Latents
from pipelines.model import load
from pipelines.posterior import LatentClassifier, PosteriorRecipe, cache_key, train_posterior
from pipelines.sources import training_latents

RECIPE = PosteriorRecipe(steps=80, batch_size=64)
SHORT = PosteriorRecipe(steps=5, batch_size=16)


@pytest.fixture(scope="module")
def trained(loaded_dit, toy_latents):
    """A posterior of ten well-separated classes."""
    return train_posterior(loaded_dit, toy_latents, RECIPE, seed=0, cache_dir=None)


def noised_at(model, latents, timestep, *, seed=1):
    """Every latent at one timestep."""
    draws = torch.Generator().manual_seed(seed)
    x0 = latents.draw(torch.arange(len(latents)), generator=draws)
    noised = draw_noise(model.noise_schedule, x0, latents.class_labels, generator=draws)
    timesteps = torch.full((len(latents),), timestep)
    noisy = model.noise_schedule.add_noise(x0, noised.noise, timesteps)
    return type(noised)(x0, noised.class_labels, timesteps, noised.noise, noisy)


def test_it_recognises_classes_where_they_can_be_recognised(loaded_dit, toy_latents, trained):
    clean, noise = (noised_at(loaded_dit, toy_latents, timestep) for timestep in (20, 999))
    probabilities = trained.retained(clean, ())
    assert (probabilities.argmax(1) == toy_latents.class_labels).float().mean() > 0.97
    assert probabilities.max(1).values.mean() > 0.9

    # In pure noise nothing is known but the priors.
    blurred = trained.retained(noise, ())
    assert blurred.max(1).values.mean() < 0.4 and (blurred.mean(0) - 0.1).abs().max() < 0.1


def test_class_priors_are_the_training_frequencies(loaded_dit, toy_latents):
    often = torch.cat([torch.arange(120), torch.arange(36, 48).repeat(20)])
    skewed = toy_latents.subset(often)
    share = (skewed.class_labels == 3).float().mean().item()
    network = train_posterior(loaded_dit, skewed, PosteriorRecipe(steps=40, batch_size=64), seed=0, cache_dir=None)
    guess = network.retained(noised_at(loaded_dit, toy_latents, 999), ())[:, 3].mean().item()
    assert share == pytest.approx(0.7) and guess == pytest.approx(share, abs=0.15)


@pytest.mark.parametrize("erased", [(), (3,), (0, 9), tuple(range(1, 10))])
def test_erased_classes_have_no_probability_and_the_rest_sums_to_one(loaded_dit, toy_latents, trained, erased):
    noised = noised_at(loaded_dit, toy_latents, 300)
    probabilities = trained.retained(noised, erased)
    assert probabilities.shape == (120, 10)
    assert (probabilities[:, list(erased)] == 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(120))

    # The rest keep their proportions: a renormalisation of the full posterior.
    full = trained.retained(noised, ())
    kept = [index for index in range(10) if index not in erased]
    expected = full[:, kept] / full[:, kept].sum(1, keepdim=True)
    sure = full[:, kept].sum(1) > 1e-3
    torch.testing.assert_close(probabilities[sure][:, kept], expected[sure], rtol=1e-3, atol=1e-5)


def test_dropout_and_gradients_are_off(trained, loaded_dit, toy_latents):
    noised = noised_at(loaded_dit, toy_latents, 500)
    assert not trained.training and not any(each.requires_grad for each in trained.parameters())
    assert torch.equal(trained.retained(noised, (3,)), trained.retained(noised, (3,)))


def test_without_noise_it_recognises_latents(toy_latents, trained):
    latents = toy_latents.mean[:, 0]
    predicted = LatentClassifier(trained).predict(latents)
    assert torch.equal(predicted, trained(latents, torch.zeros(120, dtype=torch.long)).argmax(1))
    assert (predicted == toy_latents.class_labels).float().mean() > 0.97


@pytest.mark.slow
def test_it_recognises_digits_that_it_was_not_trained_on():
    """Better than 95 % of the held-out digits: enough to judge an early stop."""
    model = load("digits")
    latents = training_latents(model, "digits", cache_dir=None, replay_per_class=1, seed=0, progress=False)
    network = train_posterior(model, latents, PosteriorRecipe(), seed=0, cache_dir=None)
    held_out = digit_images("held-out")
    mean, _ = model.encode(held_out.read(torch.arange(len(held_out))))
    assert (LatentClassifier(network).predict(mean) == held_out.labels).float().mean() > 0.95


def weights(network):
    """All weights as one vector."""
    return torch.cat([each.flatten() for each in network.state_dict().values()])


def test_training_is_deterministic_and_keeps_to_itself(loaded_dit, toy_latents):
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        made.append(train_posterior(loaded_dit, toy_latents, SHORT, seed=0, cache_dir=None))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights(made[0]), weights(made[1]))
    other = train_posterior(loaded_dit, toy_latents, SHORT, seed=1, cache_dir=None)
    assert not torch.equal(weights(other), weights(made[0]))


def test_the_cache_gives_back_the_same_bits(loaded_dit, toy_latents, tmp_path, monkeypatch):
    cache = tmp_path / "new" / "cache"
    first = train_posterior(loaded_dit, toy_latents, SHORT, seed=0, cache_dir=cache)
    (path,) = cache.iterdir()
    assert path.name == f"posterior-{cache_key(loaded_dit, toy_latents, SHORT, 0)}.safetensors"
    assert load_file(path).keys() == first.state_dict().keys()
    uncached = train_posterior(loaded_dit, toy_latents, SHORT, seed=0, cache_dir=None)

    monkeypatch.setattr("pipelines.posterior.fit", None)  # a second training would fail
    second = train_posterior(loaded_dit, toy_latents, SHORT, seed=0, cache_dir=cache)
    assert torch.equal(weights(first), weights(second)) and torch.equal(weights(first), weights(uncached))
    assert not second.training and not any(each.requires_grad for each in second.parameters())


def test_the_cache_key_covers_data_recipe_and_seed(loaded_dit, toy_latents):
    key = cache_key(loaded_dit, toy_latents, SHORT, 0)
    moved = {name: getattr(toy_latents, name).clone() for name in ("mean", "std", "class_labels")}
    moved["std"][0, 0, 0, 0, 0] += 1e-3
    others = [
        cache_key(loaded_dit, Latents.in_memory(**moved), SHORT, 0),
        cache_key(loaded_dit, toy_latents.subset(torch.arange(100)), SHORT, 0),
        cache_key(loaded_dit, toy_latents, RECIPE, 0),
        cache_key(loaded_dit, toy_latents, SHORT, 1),
    ]
    assert len({key, *others}) == 5
