"""The plain loop that public erasure scripts write, in our own words: nothing in it is slowed down on purpose.

It shares the network, its batches and the loss with the product. What differs is everything around them: PyTorch's
default optimizer, masks that stay on the CPU and are applied parameter by parameter, an average of the weights that
nobody reads, losses fetched in every step, Fisher diagonals summed on the CPU, and 250 steps of DDPM.
"""

import math

import torch
from torch import Tensor

from erase.config import EngineConfig
from erase.diffusion_task import DiffusionTask
from erase.optimizers import PhaseMasks, scheduled
from erase.workspace import Batch
from pipelines.diffusion import Noised, denoising_loss
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings, build_scheduler, noise_generators

AVERAGE_DECAY = 0.9999


class PlainLoop:
    """Alternating ascent and denoising steps with two optimizers, parameter by parameter."""

    def __init__(self, task: DiffusionTask, config: EngineConfig, masks: PhaseMasks) -> None:
        self.task, self.config = task, config
        self.parameters = task.parameters
        self.mask = {name: each.cpu().float() for name, each in masks.forget.items()}
        weights = list(self.parameters.values())
        self.optimizers = {
            "forget": torch.optim.AdamW(weights, lr=config.forget_learning_rate, weight_decay=0.0),
            "retain": torch.optim.AdamW(weights, lr=config.retain_learning_rate, weight_decay=0.0),
        }
        self.average = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.losses: list[float] = []

    def run(self, step: int) -> None:
        """One outer step: a forget phase, a retain phase, at the learning rates of the step."""
        for side, optimizer in self.optimizers.items():
            peak, schedule = (getattr(self.config, f"{side}_{name}") for name in ("learning_rate", "lr_schedule"))
            optimizer.param_groups[0]["lr"] = scheduled(peak, schedule, step, steps=self.config.steps)
        self.phase("forget", self.task.forget_batch(step, 0))
        self.phase("retain", self.task.retain_batch(step, 0))

    def phase(self, side: str, batch: Batch) -> None:
        """Loss, backward, optimizer."""
        optimizer = self.optimizers[side]
        optimizer.zero_grad()
        loss = self.loss(side, batch)
        loss.backward()
        self.losses.append(loss.item())
        self.tail(side)

    def loss(self, side: str, batch: Batch) -> Tensor:
        """The method's loss of a batch."""
        return (self.task.forget_loss if side == "forget" else self.task.retain_loss)(batch).objective

    def tail(self, side: str) -> None:
        """Mask, clip, step and average what the parameters' gradients say."""
        if side == "forget":
            for name, parameter in self.parameters.items():
                parameter.grad *= self.mask[name].to(parameter.device)
        limit = self.config.forget_clip if side == "forget" else self.config.retain_clip
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), limit)
        self.optimizers[side].step()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.average[name].mul_(AVERAGE_DECAY).add_(parameter, alpha=1 - AVERAGE_DECAY)


def plain_fisher(task: DiffusionTask, images: list[Noised]) -> dict[str, Tensor]:
    """Mean of squared gradients of L_simple, one image at a time, summed on the CPU."""
    model, schedule = task.workspace.model, task.workspace.model.noise_schedule
    fisher = {name: torch.zeros(each.shape) for name, each in task.parameters.items()}
    for noised in images:
        model.transformer.zero_grad()
        output = model.predict(noised.noisy_latents, noised.timesteps, noised.class_labels)
        denoising_loss(schedule, output, noised).simple.mean().backward()
        for name, parameter in task.parameters.items():
            if parameter.grad is not None:
                fisher[name] += parameter.grad.detach().cpu() ** 2 / len(images)
    model.transformer.zero_grad()
    return fisher


@torch.no_grad()
def plain_ddpm(model: DiT, class_labels: Tensor, seeds: list[int], *, num_steps: int, guidance_scale: float) -> Tensor:
    """Latents by ancestral sampling with learned variance and guidance (arXiv 2102.09672), one step after another.

    The respaced betas are those of the original code: a step keeps the product of the alphas that it skips.
    """
    device, guided = model.device, guidance_scale != 1
    cumulative = model.noise_schedule.tables["alphas_cumprod"].double().cpu()
    timesteps = torch.linspace(0, len(cumulative) - 1, num_steps).round().long()
    kept = cumulative[timesteps]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    betas = 1 - kept / previous

    generators = noise_generators(seeds)
    latents = drawn(generators, model).to(device)
    null = torch.full_like(class_labels, model.null_class)
    labels = (torch.cat([class_labels, null]) if guided else class_labels).to(device)
    for index in reversed(range(num_steps)):
        t = torch.full((len(labels),), int(timesteps[index]), device=device)
        twice = torch.cat([latents, latents]) if guided else latents
        noise, variance = model.predict(twice, t, labels).chunk(2, dim=1)
        if guided:
            conditional, unconditional = noise.chunk(2)
            noise, variance = unconditional + guidance_scale * (conditional - unconditional), variance.chunk(2)[0]

        # The mean of q(x_before | x_t, x_0) at the predicted x_0, and the interpolated log variance.
        bar, before, beta = float(kept[index]), float(previous[index]), float(betas[index])
        clean = (latents - math.sqrt(1 - bar) * noise) / math.sqrt(bar)
        mean = math.sqrt(before) * beta / (1 - bar) * clean + math.sqrt(1 - beta) * (1 - before) / (1 - bar) * latents
        if index == 0:
            return mean
        least = math.log(beta * (1 - before) / (1 - bar))
        log_variance = least + (variance + 1) / 2 * (math.log(beta) - least)
        latents = mean + (0.5 * log_variance).exp() * drawn(generators, model).to(device)
    return latents


@torch.no_grad()
def plain_steps(model: DiT, class_labels: Tensor, seeds: list[int], *, settings: SamplerSettings) -> Tensor:
    """Latents by the steps of a diffusers scheduler without guidance."""
    scheduler = build_scheduler(model.noise_schedule, settings)
    latents, labels = drawn(noise_generators(seeds), model).to(model.device), class_labels.to(model.device)
    for timestep in scheduler.timesteps:
        noise, _ = model.predict(latents, timestep.expand(len(labels)).to(model.device), labels).chunk(2, dim=1)
        latents = scheduler.step(noise, timestep, latents).prev_sample
    return latents


@torch.no_grad()
def plain_pixels(model: DiT, latents: Tensor) -> Tensor:
    """Images uint8 (B, 3, H, W) of latents."""
    pixels = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def drawn(generators: list[torch.Generator], model: DiT) -> Tensor:
    """Standard normal latents (B, C, H, W), each image's from its own generator."""
    return torch.stack([torch.randn(model.latent_shape, generator=each) for each in generators])
