"""The noise schedule in closed forms, the hybrid loss against independent densities, label dropout."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pipelines.diffusion import (
    Noised,
    NoiseSchedule,
    denoising_loss,
    discretized_gaussian_nll,
    draw_noise,
    drop_labels,
    vlb_loss,
)

SCHEDULE = NoiseSchedule()
CHANNELS = 4


@cache
def exact_alphas_cumprod() -> Tensor:
    """abar_t of the linear schedule, by exactly rounded sums of logarithms; float64 (1000,)."""
    betas = [1e-4 + index * (0.02 - 1e-4) / 999 for index in range(1000)]
    logs = [math.log1p(-beta) for beta in betas]
    return torch.tensor([math.exp(math.fsum(logs[: index + 1])) for index in range(1000)], dtype=torch.float64)


def one_step(timestep: int) -> tuple[float, float, float]:
    """(beta_t, abar_t, abar_{t-1}) as Python floats."""
    abar = exact_alphas_cumprod()
    before = abar[timestep - 1].item() if timestep else 1.0
    return 1 - abar[timestep].item() / before, abar[timestep].item(), before


def batch_at(timesteps: list[int], *, seed: int = 0) -> Noised:
    """Noised latents at given timesteps, on the scale of real latents."""
    draws = torch.Generator().manual_seed(seed)
    latents = 0.5 * torch.randn(len(timesteps), CHANNELS, 3, 3, generator=draws)
    noise, steps = torch.randn(latents.shape, generator=draws), torch.tensor(timesteps)
    labels = torch.zeros(len(timesteps), dtype=torch.long)
    return Noised(latents, labels, steps, noise, SCHEDULE.add_noise(latents, noise, steps))


def random_output(batch: Noised, *, seed: int = 1) -> Tensor:
    """A network output (B, 2C, H, W): a noise prediction that is off by a third, variances between the bounds."""
    draws = torch.Generator().manual_seed(seed)
    noise_pred = batch.noise + 0.3 * torch.randn(batch.noise.shape, generator=draws)
    variance_pred = torch.rand(batch.noise.shape, generator=draws) * 2 - 1
    return torch.cat([noise_pred, variance_pred], dim=1).requires_grad_()


def test_tables_are_the_closed_forms() -> None:
    abar = exact_alphas_cumprod()
    expected = {
        "betas": 1 - abar / torch.cat([torch.ones(1), abar[:-1]]),
        "alphas_cumprod": abar,
        "signal": abar.sqrt(),
        "noise": (-torch.expm1(abar.log())).sqrt(),
    }
    for name, values in expected.items():
        table = SCHEDULE.tables[name]
        assert table.dtype == torch.float32 and len(table) == SCHEDULE.num_timesteps == 1000
        torch.testing.assert_close(table.double(), values.double(), rtol=2e-7, atol=0)


def test_other_lengths_and_ends() -> None:
    schedule = NoiseSchedule(3, beta_start=0.1, beta_end=0.3)
    torch.testing.assert_close(schedule.tables["betas"], torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(schedule.tables["alphas_cumprod"], torch.tensor([0.9, 0.72, 0.504]))


@pytest.mark.parametrize("timestep", [1, 2, 50, 500, 999])
def test_posterior_by_brute_force(timestep: int) -> None:
    """Mean and variance of q(x_{t-1} | x_t, x_0) by Bayes' rule on a grid."""
    beta, _, before = one_step(timestep)
    x0, xt = 0.3, -0.2
    grid = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    prior = Normal(math.sqrt(before) * x0, math.sqrt(1 - before), validate_args=False).log_prob(grid)
    weights = (prior + Normal(math.sqrt(1 - beta) * grid, math.sqrt(beta)).log_prob(torch.tensor(xt))).softmax(0)
    mean = (weights * grid).sum()
    variance = (weights * (grid - mean).square()).sum()

    steps = torch.tensor([timestep])
    found = SCHEDULE.posterior_mean(torch.full((1, 1, 1, 1), x0), torch.full((1, 1, 1, 1), xt), steps).item()
    assert found == pytest.approx(mean.item(), rel=1e-5, abs=1e-6)
    assert SCHEDULE.at("posterior_log_variance", steps).item() == pytest.approx(math.log(variance), abs=1e-4)


def test_add_noise_and_its_inverse() -> None:
    batch = batch_at([0, 10, 999])
    for index, timestep in enumerate([0, 10, 999]):
        _, abar, _ = one_step(timestep)
        expected = math.sqrt(abar) * batch.latents[index] + math.sqrt(1 - abar) * batch.noise[index]
        torch.testing.assert_close(batch.noisy_latents[index], expected)
    x0 = SCHEDULE.predict_x0(batch.noisy_latents, batch.noise, batch.timesteps)
    torch.testing.assert_close(x0, batch.latents, rtol=0, atol=1e-4)


def test_model_log_variance_at_its_ends() -> None:
    """v = 1 gives beta_t, v = -1 gives btilde_t (of t = 1 at t = 0), v = 0 their geometric mean."""
    timesteps = torch.tensor([0, 1, 300, 999])
    steps = [one_step(timestep) for timestep in (0, 1, 300, 999)]
    upper = torch.tensor([math.log(beta) for beta, _, _ in steps])
    beta, abar, before = one_step(1)
    lower = [math.log(b * (1 - a_before) / (1 - a)) for b, a, a_before in steps[1:]]
    lower = torch.tensor([math.log(beta * (1 - before) / (1 - abar)), *lower])
    for share, expected in ((1.0, upper), (-1.0, lower), (0.0, (upper + lower) / 2)):
        found = SCHEDULE.model_log_variance(torch.full((4, 1, 1, 1), share), timesteps).flatten()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_simple_loss_is_the_mean_square() -> None:
    batch = batch_at([5, 600])
    output = random_output(batch)
    found = denoising_loss(SCHEDULE, output, batch)
    for index in range(2):
        expected = sum((batch.noise[index] - output[index, :CHANNELS]).detach().flatten().square().tolist()) / 36
        assert found.simple[index].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(found.denoising, found.simple + found.vlb)


@pytest.mark.parametrize("timestep", [1, 7, 400, 999])
def test_vlb_is_the_kl_of_two_normals(timestep: int) -> None:
    """Against torch.distributions, with every coefficient written out in float64."""
    batch = batch_at([timestep])
    output = random_output(batch).detach().double()
    noise_pred, variance_pred = output[:, :CHANNELS], output[:, CHANNELS:]
    beta, abar, before = one_step(timestep)
    low, high = math.log(beta * (1 - before) / (1 - abar)), math.log(beta)

    # DDPM equation 11 for the model's mean: no x_0 in between, as a second derivation.
    x0, xt = batch.latents.double(), batch.noisy_latents.double()
    true_mean = (math.sqrt(before) * beta * x0 + math.sqrt(1 - beta) * (1 - before) * xt) / (1 - abar)
    model_mean = (xt - beta / math.sqrt(1 - abar) * noise_pred) / math.sqrt(1 - beta)
    scale = (0.5 * (low + (variance_pred + 1) / 2 * (high - low))).exp()
    expected = kl_divergence(Normal(true_mean, math.exp(low / 2)), Normal(model_mean, scale)).mean() / math.log(2)

    found = denoising_loss(SCHEDULE, output.float(), batch).vlb
    assert found.item() == pytest.approx(expected.item(), rel=2e-3)


def test_vlb_at_timestep_zero_is_the_decoder_likelihood() -> None:
    batch = batch_at([0])
    output = random_output(batch).detach().double()
    beta, abar, _ = one_step(0)
    beta1, abar1, _ = one_step(1)
    low, high = math.log(beta1 * (1 - abar) / (1 - abar1)), math.log(beta)
    mean = (batch.noisy_latents.double() - beta / math.sqrt(1 - abar) * output[:, :CHANNELS]) / math.sqrt(1 - beta)
    scale = (0.5 * (low + (output[:, CHANNELS:] + 1) / 2 * (high - low))).exp()
    x0, model = batch.latents.double(), Normal(mean, scale)
    above = torch.where(x0 > 0.999, 1, model.cdf(x0 + 1 / 255))
    below = torch.where(x0 < -0.999, 0, model.cdf(x0 - 1 / 255))
    expected = -(above - below).log2().mean()
    assert expected > 0.1 and (x0.abs() > 0.999).any()
    assert vlb_loss(SCHEDULE, *output.float().chunk(2, dim=1), batch).item() == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.3), (0.4, 0.05), (-0.9, 0.2), (1.1, 0.5)])
def test_discretised_gaussian_is_the_mass_of_its_bins(mean: float, scale: float) -> None:
    """Over the 256 grey levels the masses sum to one, and each is that of the normal distribution."""
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    mass = (-discretized_gaussian_nll(levels, torch.tensor(mean), torch.tensor(math.log(scale)))).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    edges = Normal(mean, scale).cdf(torch.cat([levels[:-1] + 1 / 255, torch.tensor([torch.inf])]))
    exact = torch.diff(edges, prepend=torch.zeros(1))
    assert (mass - exact).abs().max() < 1e-3


def test_discretised_gaussian_by_sampling() -> None:
    """The share of a million draws in the bin around each of three values."""
    draws = 0.1 + 0.2 * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    for value in (0.1, 0.3, -0.2):
        share = ((draws - value).abs() < 1 / 255).float().mean().item()
        arguments = (torch.tensor(number) for number in (value, 0.1, math.log(0.2)))
        assert discretized_gaussian_nll(*arguments).exp().reciprocal().item() == pytest.approx(share, rel=0.03)


def test_decoder_likelihood_stays_finite() -> None:
    """A mean a hundred scales away has no representable mass: the loss is capped instead of infinite."""
    nll = discretized_gaussian_nll(torch.zeros(1), torch.ones(1), torch.tensor(-5.0))
    assert nll.item() == pytest.approx(-math.log(1e-12))


def test_variance_term_does_not_move_the_noise_prediction() -> None:
    batch = batch_at([0, 1, 500, 999])
    output = random_output(batch)
    denoising_loss(SCHEDULE, output, batch).vlb.sum().backward()
    assert output.grad[:, :CHANNELS].abs().max() == 0
    assert (output.grad[:, CHANNELS:].flatten(1).abs().amax(1) > 0).all()


def test_simple_term_does_not_move_the_variance_prediction() -> None:
    batch = batch_at([0, 500])
    output = random_output(batch)
    denoising_loss(SCHEDULE, output, batch).simple.sum().backward()
    assert output.grad[:, CHANNELS:].abs().max() == 0
    torch.testing.assert_close(output.grad[:, :CHANNELS], (output[:, :CHANNELS] - batch.noise).detach() / 18)


def test_losses_do_not_depend_on_the_order_of_a_batch() -> None:
    timesteps, order = [0, 1, 200, 999, 0], torch.tensor([3, 0, 4, 2, 1])
    batch = batch_at(timesteps)
    output = random_output(batch).detach()
    fields = (batch.latents, batch.class_labels, batch.timesteps, batch.noise, batch.noisy_latents)
    shuffled = denoising_loss(SCHEDULE, output[order], Noised(*(field[order] for field in fields)))
    straight = denoising_loss(SCHEDULE, output, batch)
    torch.testing.assert_close(shuffled.simple, straight.simple[order])
    torch.testing.assert_close(shuffled.vlb, straight.vlb[order])
    assert straight.vlb.unique().numel() == len(timesteps)


def test_draw_noise_is_a_function_of_the_generator() -> None:
    latents, labels = torch.ones(64, CHANNELS, 2, 2), torch.arange(64)
    schedule = NoiseSchedule(5)
    first, second, other = (
        draw_noise(schedule, latents, labels, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.noisy_latents, second.noisy_latents)
    assert not torch.equal(first.noise, other.noise) and not torch.equal(first.timesteps, other.timesteps)
    assert set(first.timesteps.tolist()) == set(range(5))
    assert torch.equal(first.noisy_latents, schedule.add_noise(latents, first.noise, first.timesteps))


def test_relabelled_changes_the_labels_only() -> None:
    batch = batch_at([3, 4])
    relabelled = batch.relabelled(torch.tensor([7, 8]))
    assert relabelled.class_labels.tolist() == [7, 8] and batch.class_labels.tolist() == [0, 0]
    assert relabelled.noisy_latents is batch.noisy_latents and relabelled.noise is batch.noise


def test_drop_labels_rate_and_independence() -> None:
    """A tenth of 20,000 labels goes to the null class, wherever in the batch; the others keep their own."""
    labels = torch.arange(10).repeat(2000)
    dropped = drop_labels(labels, probability=0.1, null_class=10, generator=torch.Generator().manual_seed(0))
    null = dropped == 10
    assert dropped.shape == labels.shape and torch.equal(dropped[~null], labels[~null])
    assert null.float().mean().item() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 20_000))
    pairs = (null[:-1] & null[1:]).float().mean().item()
    assert pairs == pytest.approx(0.01, abs=4 * math.sqrt(0.01 / 20_000))


@pytest.mark.parametrize(("probability", "kept"), [(0.0, True), (1.0, False)])
def test_drop_labels_never_and_always(probability: float, kept: bool) -> None:
    labels = torch.arange(5000)
    dropped = drop_labels(labels, probability=probability, null_class=-1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropped, labels if kept else torch.full_like(labels, -1))
