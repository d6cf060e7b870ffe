"""Samplers against the papers' equations and a model with a closed-form solution; guidance; independence of batches."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.diffusion import NoiseSchedule
from pipelines.errors import UsageError
from pipelines.model import DiT
from pipelines.sampler import (
    SAMPLERS,
    SamplerSettings,
    build_scheduler,
    sample_latents,
)

LABELS, SEEDS = [3, 0, 9, 3, 7, 1, 5], [11, 12, 13, 14, 15, 16, 17]


class GaussianModel:
    """Class c is N(c - 1, spread^2) in every coordinate: the best denoiser and the flow's end are known exactly."""

    null_class, latent_shape, device, spread = 3, (4, 2, 2), torch.device("cpu"), 0.5

    def __init__(self) -> None:
        self.noise_schedule = NoiseSchedule()

    def predict(self, latents: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        """E[e | x_t], and a variance between the bounds."""
        mean = (class_labels - 1.0)[:, None, None, None]
        signal, noise = (self.noise_schedule.at(name, timesteps) for name in ("signal", "noise"))
        noise_pred = noise * (latents - signal * mean) / ((signal * self.spread).square() + noise.square())
        return torch.cat([noise_pred, torch.zeros_like(noise_pred)], dim=1)

    def flow(self, noise: Tensor, class_labels: Tensor) -> Tensor:
        """Where the probability flow carries noise at t = T - 1: the Gaussians map to each other."""
        mean = (class_labels - 1.0)[:, None, None, None]
        abar = self.noise_schedule.tables["alphas_cumprod"][-1].double()
        return mean + self.spread * (noise - abar.sqrt() * mean) / (abar * self.spread**2 + 1 - abar).sqrt()


def starting_noise(model: DiT | GaussianModel, seeds: list[int]) -> tuple[Tensor, list[torch.Generator]]:
    """The first draw of each image's generator."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(model.latent_shape, generator=own) for own in generators]), generators


def guided(model: DiT, latents: Tensor, timestep: int, labels: Tensor, settings: SamplerSettings) -> Tensor:
    """The network's output with guidance, a branch and a channel at a time; float64."""
    timesteps, null_labels = torch.full_like(labels, timestep), torch.full_like(labels, model.null_class)
    with torch.no_grad():
        conditional = model.predict(latents.float(), timesteps, labels).double()
        unconditional = model.predict(latents.float(), timesteps, null_labels).double()
    output = conditional.clone()
    for channel in range(settings.guided_channels):
        output[:, channel] = (1 - settings.guidance_scale) * unconditional[:, channel]
        output[:, channel] += settings.guidance_scale * conditional[:, channel]
    return output


def alphas_cumprod() -> np.ndarray:
    """abar_t in float64."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def ddpm_reference(model: DiT, labels: Tensor, seeds: list[int], settings: SamplerSettings) -> Tensor:
    """Ancestral sampling with learned range over respaced betas (improved DDPM, equations 15 and 19), in float64."""
    steps = settings.num_inference_steps
    timesteps = [round(index * 999 / (steps - 1)) for index in range(steps)]
    abar = alphas_cumprod()[timesteps]
    before = np.append(1.0, abar[:-1])
    betas = 1 - abar / before
    posterior = betas * (1 - before) / (1 - abar)

    x, generators = starting_noise(model, seeds)
    x = x.double()
    for index in reversed(range(steps)):
        noise_pred, share = guided(model, x, timesteps[index], labels, settings).chunk(2, dim=1)
        mean = (x - betas[index] / math.sqrt(1 - abar[index]) * noise_pred) / math.sqrt(1 - betas[index])
        if index == 0:
            return mean
        share = (share + 1) / 2
        log_variance = share * math.log(betas[index]) + (1 - share) * math.log(posterior[index])
        noise = torch.stack([torch.randn(model.latent_shape, generator=own) for own in generators])
        x = mean + (log_variance / 2).exp() * noise
    raise AssertionError


def ddim_reference(model: DiT, labels: Tensor, seeds: list[int], settings: SamplerSettings) -> Tensor:
    """DDIM equation 12 with eta 0 from timestep T - 1 down in equal strides, in float64."""
    stride = 1000 // settings.num_inference_steps
    abar = alphas_cumprod()
    x = starting_noise(model, seeds)[0].double()
    for timestep in range(999, -1, -stride):
        before = abar[timestep - stride] if timestep >= stride else 1.0
        noise_pred = guided(model, x, timestep, labels, settings)[:, : model.latent_shape[0]]
        x0 = (x - math.sqrt(1 - abar[timestep]) * noise_pred) / math.sqrt(abar[timestep])
        x = math.sqrt(before) * x0 + math.sqrt(1 - before) * noise_pred
    return x


@pytest.mark.parametrize(
    ("sampler", "reference", "steps", "guidance_scale", "guided_channels"),
    [
        ("ddpm", ddpm_reference, 2, 1.0, 4),
        ("ddpm", ddpm_reference, 10, 1.0, 4),
        ("ddpm", ddpm_reference, 12, 1.5, 3),
        ("ddpm", ddpm_reference, 250, 1.5, 3),
        ("ddim", ddim_reference, 1, 1.0, 4),
        ("ddim", ddim_reference, 10, 1.0, 4),
        ("ddim", ddim_reference, 8, 2.5, 3),
        ("ddim", ddim_reference, 50, 0.0, 4),
    ],
)
def test_equations(
    tiny: DiT, sampler: str, reference: Callable, steps: int, guidance_scale: float, guided_channels: int
) -> None:
    settings = SamplerSettings(
        sampler=sampler,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guided_channels=guided_channels,
    )
    labels, seeds = torch.tensor(LABELS[:3]), SEEDS[:3]
    expected = reference(tiny, labels, seeds, settings)
    found = sample_latents(tiny, labels, seeds, settings)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("sampler", "steps", "tolerance"), [("ddim", 1000, 0.006), ("dpm-solver++", 400, 0.001)])
def test_many_steps_converge_to_the_flow(sampler: str, steps: int, tolerance: float) -> None:
    """DDIM and DPM-Solver++ end where the probability flow of Gaussian data ends, hence at the same place."""
    model, labels = GaussianModel(), torch.tensor([0, 1, 2, 2])
    expected = model.flow(starting_noise(model, SEEDS[:4])[0].double(), labels)
    settings = SamplerSettings(sampler=sampler, num_inference_steps=steps)
    found = sample_latents(model, labels, SEEDS[:4], settings)
    assert (found - expected).abs().max() < tolerance


def test_orders_of_convergence() -> None:
    """Twice the steps halve DDIM's distance from the flow; DPM-Solver++, of second order, is far closer."""
    model, labels = GaussianModel(), torch.tensor([0, 1, 2, 2])
    expected = model.flow(starting_noise(model, SEEDS[:4])[0].double(), labels)

    def error(sampler: str, steps: int) -> float:
        settings = SamplerSettings(sampler=sampler, num_inference_steps=steps)
        return (sample_latents(model, labels, SEEDS[:4], settings) - expected).abs().max().item()

    assert error("ddim", 100) / error("ddim", 200) == pytest.approx(2, rel=0.05)
    assert error("dpm-solver++", 50) < error("ddim", 50) / 50


def test_ddpm_draws_from_the_data_distribution() -> None:
    model, count = GaussianModel(), 150
    settings = SamplerSettings(sampler="ddpm", num_inference_steps=250)
    found = sample_latents(model, torch.full((count,), 2), list(range(count)), settings)
    assert found.mean().item() == pytest.approx(1.0, abs=4 * 0.5 / math.sqrt(found.numel()))
    assert found.std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_bf16_is_the_network_under_autocast(tiny: DiT, guidance_scale: float) -> None:
    """Near the images of fp32, not equal to them, and float32 like them."""
    labels = torch.tensor(LABELS)
    exact = sample_latents(tiny, labels, SEEDS, SamplerSettings(guidance_scale=guidance_scale))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = sample_latents(tiny, labels, SEEDS, SamplerSettings(guidance_scale=guidance_scale)).float()
    found = sample_latents(tiny, labels, SEEDS, SamplerSettings(guidance_scale=guidance_scale, precision="bf16"))
    assert found.dtype == torch.float32 and 0 < (found - exact).norm() < 0.05 * exact.norm()
    assert (found - expected).norm() < 0.05 * exact.norm()
    with pytest.raises(UsageError, match=r"--precision 'fp16' is not one of fp32, bf16"):
        SamplerSettings(precision="fp16")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_do_not_depend_on_their_batch(tiny: DiT, sampler: str) -> None:
    """Alone, by threes, all seven at once and in reverse: the same latents for the same label and seed."""
    settings = SamplerSettings(sampler=sampler, num_inference_steps=10, guidance_scale=1.5, guided_channels=3)
    labels = torch.tensor(LABELS)
    expected = sample_latents(tiny, labels, SEEDS, settings)
    for size in (1, 3):
        parts = [
            sample_latents(tiny, labels[start : start + size], SEEDS[start : start + size], settings)
            for start in range(0, 7, size)
        ]
        assert (torch.cat(parts) - expected).abs().max() < 1e-5 * expected.abs().max()
    reverse = sample_latents(tiny, labels.flip(0), SEEDS[::-1], settings).flip(0)
    assert (reverse - expected).abs().max() < 1e-5 * expected.abs().max()
    distances = torch.cdist(expected.flatten(1), expected.flatten(1)) + 1e9 * torch.eye(7)
    assert distances.min() > 0.01 * expected.abs().max()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_leaves_global_randomness_alone(tiny: DiT, sampler: str) -> None:
    state = torch.get_rng_state()
    settings = SamplerSettings(sampler=sampler, num_inference_steps=2)
    first = sample_latents(tiny, torch.tensor([1]), [5], settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sample_latents(tiny, torch.tensor([1]), [5], settings), first)
    assert not torch.equal(sample_latents(tiny, torch.tensor([1]), [6], settings), first)


@pytest.mark.parametrize(
    ("sampler", "steps", "ends"),
    [("ddpm", 250, (999, 0)), ("ddpm", 1000, (999, 0)), ("ddim", 50, (999, 19)), ("dpm-solver++", 20, (999, 50))],
)
def test_timesteps_begin_at_the_noisiest(sampler: str, steps: int, ends: tuple[int, int]) -> None:
    settings = SamplerSettings(sampler=sampler, num_inference_steps=steps)
    timesteps = build_scheduler(NoiseSchedule(), settings).timesteps.tolist()
    assert (timesteps[0], timesteps[-1]) == ends and len(set(timesteps)) == steps


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "euler"}, "--sampler 'euler' is not one of ddpm, ddim"),
        ({"num_inference_steps": 0}, "--num-inference-steps 0"),
        ({"num_inference_steps": 1001}, "--num-inference-steps 1001"),
        ({"guidance_scale": -0.5}, "--guidance-scale -0.5"),
        ({"guidance_scale": math.nan}, "--guidance-scale nan"),
    ],
)
def test_settings_are_checked(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplerSettings(**values)


@pytest.mark.parametrize(
    ("sampler", "steps", "message"),
    [
        ("ddim", 30, "must divide 1000"),  # diffusers strides 33 over timesteps that are 33 or 34 apart
        ("ddim", 667, "must divide 1000"),  # and 1 here: a third of the noise would stay
        ("dpm-solver++", 1000, "between 1 and 999"),  # a timestep twice, 0 / 0
        ("ddpm", 1, "between 2 and 1000"),  # the only timestep would be 0
    ],
)
def test_steps_that_a_scheduler_cannot_take(tiny: DiT, sampler: str, steps: int, message: str) -> None:
    settings = SamplerSettings(sampler=sampler, num_inference_steps=steps)
    with pytest.raises(UsageError, match=message):
        sample_latents(tiny, torch.tensor([0]), [0], settings)
