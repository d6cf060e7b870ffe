"""Sampling with classifier-free guidance over diffusers schedulers, one generator per image.

Sources: DDPM with learned range (arXiv 2102.09672), DDIM (arXiv 2010.02502), DPM-Solver++ (arXiv 2211.01095),
classifier-free guidance (arXiv 2207.12598), in a limited interval (arXiv 2404.07724).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from .diffusion import NoiseSchedule
from .errors import UsageError
from .onednn import OneDNNLinear

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    from .model import DiT

SAMPLERS = ("ddpm", "ddim", "dpm-solver++")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Everything that turns (weights, class label, seed) into one image."""

    sampler: Literal["ddpm", "ddim", "dpm-solver++"] = "dpm-solver++"
    num_inference_steps: int = 20
    guidance_scale: float = 1.0  # 1 = off
    guided_channels: int = 4  # the original DiT guides the first 3 of 4, diffusers all
    guidance_start: float = 0.0  # share of the steps, from the noisiest on, before guidance begins
    guidance_end: float = 1.0  # and at which it ends; a step outside takes the conditional branch alone
    precision: Literal["fp32", "bf16"] = "fp32"  # of the network's arithmetic; the sampler's own is fp32
    decoder_precision: Literal["fp32", "bf16"] = "fp32"  # of the VAE's arithmetic

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler {self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        for name in ("precision", "decoder_precision"):
            if getattr(self, name) not in PRECISIONS:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {getattr(self, name)!r} is not one of {', '.join(PRECISIONS)}")
        if not 1 <= self.num_inference_steps <= 1000:
            raise UsageError(f"--num-inference-steps {self.num_inference_steps} must lie between 1 and 1000")
        if not self.guidance_scale >= 0:
            raise UsageError(f"--guidance-scale {self.guidance_scale} must be at least 0 (1 switches guidance off)")
        self.check_interval()

    def check_interval(self) -> None:
        """Refuse an interval of guidance that is none, or in which no step lies."""
        interval = f"--guidance-start {self.guidance_start:g} and --guidance-end {self.guidance_end:g}"
        if not 0 <= self.guidance_start < self.guidance_end <= 1:
            raise UsageError(f"{interval} must be shares of the steps, 0 to 1, the start below the end")
        if (self.guidance_start, self.guidance_end) == (0, 1):
            return
        if self.guidance_scale == 1:
            raise UsageError(f"{interval} have no effect with --guidance-scale 1, which switches guidance off")
        if self.network_rows() == self.num_inference_steps:
            raise UsageError(f"{interval} hold none of {self.num_inference_steps} steps")

    def guides(self, step: int) -> bool:
        """Whether a step (from 0, the noisiest) is guided: its middle lies in the interval."""
        middle = (step + 0.5) / self.num_inference_steps
        return self.guidance_scale != 1 and self.guidance_start <= middle < self.guidance_end

    def network_rows(self, *, first: int = 0) -> int:
        """Network rows of an image from step ``first`` on: conditional and unconditional in each guided step."""
        return sum(1 + self.guides(step) for step in range(first, self.num_inference_steps))


def scheduler_config(schedule: NoiseSchedule) -> dict[str, object]:
    """The settings that all diffusers schedulers share for this noise schedule."""
    return {
        "num_train_timesteps": schedule.num_timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": "linear",
    }


def ddim_scheduler(schedule: NoiseSchedule) -> "DDIMScheduler":
    """DDIM (eta 0) without clipping, first timestep T - 1; also the scheduler of a saved folder."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(scheduler_config(schedule), clip_sample=False, timestep_spacing="trailing")


def build_scheduler(
    schedule: NoiseSchedule, settings: SamplerSettings
) -> "DDPMScheduler | DDIMScheduler | DPMSolverMultistepScheduler":
    """A fresh diffusers scheduler, its timesteps set (``UsageError`` for a number of steps that it cannot take)."""
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    check_steps(schedule, settings)
    steps = settings.num_inference_steps
    if settings.sampler == "ddim":
        scheduler = ddim_scheduler(schedule)
        scheduler.set_timesteps(steps)
    elif settings.sampler == "dpm-solver++":
        scheduler = DPMSolverMultistepScheduler.from_config(scheduler_config(schedule))
        scheduler.set_timesteps(steps)
    else:
        scheduler = DDPMScheduler.from_config(
            scheduler_config(schedule), clip_sample=False, variance_type="learned_range"
        )
        # Explicit timesteps: DDPMScheduler then takes the previous step from the list instead of T // steps.
        timesteps = np.linspace(0, schedule.num_timesteps - 1, steps).round()[::-1].astype(int)
        scheduler.set_timesteps(timesteps=timesteps.tolist())
    return scheduler


def check_steps(schedule: NoiseSchedule, settings: SamplerSettings) -> None:
    """Refuse a number of steps for which diffusers' scheduler silently gives wrong samples (``UsageError``).

    DDIM goes back T // steps timesteps whatever its list says; DPM-Solver++ with T steps meets a timestep twice and
    divides by zero; DDPM with one step starts at the least noisy timestep.
    """
    steps, total = settings.num_inference_steps, schedule.num_timesteps
    flag = f"--num-inference-steps {steps} with --sampler {settings.sampler}"
    if settings.sampler == "ddim" and total % steps:
        raise UsageError(f"{flag} must divide {total}")
    if settings.sampler == "ddpm" and not 2 <= steps <= total:
        raise UsageError(f"{flag} must lie between 2 and {total}")
    if settings.sampler == "dpm-solver++" and not steps < total:
        raise UsageError(f"{flag} must lie between 1 and {total - 1}")


def sample_latents(
    model: "DiT", class_labels: Tensor, seeds: Sequence[int], settings: SamplerSettings, *, last: int | None = None
) -> Tensor:
    """Latents (B, C, H, W) for class labels (B,), image j from the noise of ``seeds[j]`` alone.

    With ``last`` they are those before step ``last`` (from 0), still noisy.
    """
    from diffusers.utils.torch_utils import randn_tensor

    generators = noise_generators(seeds)
    noise = randn_tensor((len(seeds), *model.latent_shape), generator=generators, device=model.device)
    return denoise(model, noise, class_labels, generators, settings, last=last)


def noise_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator for each image, on the CPU so that every device sees the same noise."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@torch.no_grad()
def denoise(
    model: "DiT",
    latents: Tensor,
    class_labels: Tensor,
    generators: list[torch.Generator],
    settings: SamplerSettings,
    *,
    first: int = 0,
    last: int | None = None,
) -> Tensor:
    """Sampling steps ``first`` (from 0) to before ``last`` on latents (B, C, H, W) at the noise of step ``first``.

    ``generators`` give the noise that a stochastic sampler adds. A second-order sampler that begins in the middle takes
    its first step to first order.
    """
    scheduler = build_scheduler(model.noise_schedule, settings)
    class_labels = class_labels.to(model.device)
    extra = {"generator": generators} if settings.sampler == "ddpm" else {}

    for step, timestep in enumerate(scheduler.timesteps[first:last], first):
        model_input = scheduler.scale_model_input(latents, timestep)
        predict = guided_output if settings.guides(step) else conditional_output
        with OneDNNLinear():
            output = predict(model, model_input, timestep, class_labels, settings)
        if settings.sampler != "ddpm":
            output = output.chunk(2, dim=1)[0]
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents


def noised_to(
    model: "DiT", latents: Tensor, generators: list[torch.Generator], settings: SamplerSettings, *, first: int
) -> Tensor:
    """Clean latents (B, C, H, W) at the noise that sampling step ``first`` begins with (SDEdit, arXiv 2108.01073)."""
    from diffusers.utils.torch_utils import randn_tensor

    timestep = build_scheduler(model.noise_schedule, settings).timesteps[first]
    noise = randn_tensor(latents.shape, generator=generators, device=model.device)
    timesteps = torch.full((len(latents),), int(timestep), device=model.device)
    return model.noise_schedule.add_noise(latents.to(model.device), noise, timesteps)


def conditional_output(
    model: "DiT", latents: Tensor, timestep: Tensor, class_labels: Tensor, settings: SamplerSettings
) -> Tensor:
    """Network output (B, 2C, H, W) under the labels themselves."""
    timesteps = torch.full((len(latents),), int(timestep), device=latents.device)
    return model_output(model, latents, timesteps, class_labels, precision=settings.precision)


def guided_output(
    model: "DiT", latents: Tensor, timestep: Tensor, class_labels: Tensor, settings: SamplerSettings
) -> Tensor:
    """Network output (B, 2C, H, W) with guidance on the first ``guided_channels`` of the noise prediction.

    The other channels are those of the conditional branch, as in the original DiT sampler.
    """
    labels = torch.cat([class_labels, torch.full_like(class_labels, model.null_class)])
    both = conditional_output(model, latents.repeat(2, 1, 1, 1), timestep, labels, settings)
    conditional, unconditional = both.chunk(2)

    guided = slice(0, settings.guided_channels)
    output = conditional.clone()
    output[:, guided] = unconditional[:, guided] + settings.guidance_scale * (
        conditional[:, guided] - unconditional[:, guided]
    )
    return output


def model_output(model: "DiT", latents: Tensor, timesteps: Tensor, class_labels: Tensor, *, precision: str) -> Tensor:
    """Network output (B, 2C, H, W) in the type of the latents, computed in the given precision."""
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return model.predict(latents, timesteps, class_labels).to(latents.dtype)
