"""The diffusion process of DiT: noise schedule, forward noising and the hybrid loss with learned variance.

Sources: DDPM (arXiv 2006.11239), improved DDPM (arXiv 2102.09672), DiT (arXiv 2212.09748).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class NoiseSchedule:
    """Linear betas and the quantities that follow from them, each a float32 tensor of length ``num_timesteps``.

    Everything is computed in float64 first. Timestep 0 is the least noisy one.
    """

    def __init__(self, num_timesteps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        self.num_timesteps, self.beta_start, self.beta_end = num_timesteps, beta_start, beta_end
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])

        # q(x_{t-1} | x_t, x_0), DDPM equations 6 and 7; its variance is 0 at t = 0, where the log takes that of t = 1.
        posterior_variance = betas * (1 - previous) / (1 - alphas_cumprod)
        tables = {
            "betas": betas,
            "alphas_cumprod": alphas_cumprod,
            "signal": alphas_cumprod.sqrt(),
            "noise": (1 - alphas_cumprod).sqrt(),
            "log_betas": betas.log(),
            "posterior_log_variance": torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log(),
            "posterior_mean_x0": betas * previous.sqrt() / (1 - alphas_cumprod),
            "posterior_mean_xt": (1 - previous) * (1 - betas).sqrt() / (1 - alphas_cumprod),
        }
        self.tables = {name: table.float() for name, table in tables.items()}

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """Move the tables to a device, in place."""
        self.tables = {name: table.to(device) for name, table in self.tables.items()}
        return self

    def at(self, name: str, timesteps: Tensor) -> Tensor:
        """One table at the given timesteps, shaped (B, 1, 1, 1) to broadcast over latents."""
        return self.tables[name][timesteps][:, None, None, None]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e, DDPM equation 4; all (B, C, H, W)."""
        return self.at("signal", timesteps) * latents + self.at("noise", timesteps) * noise

    def predict_x0(self, noisy_latents: Tensor, noise_pred: Tensor, timesteps: Tensor) -> Tensor:
        """The x_0 that a noise prediction implies, DDPM equation 15."""
        return (noisy_latents - self.at("noise", timesteps) * noise_pred) / self.at("signal", timesteps)

    def model_log_variance(self, variance_pred: Tensor, timesteps: Tensor) -> Tensor:
        """log s^2 interpolated between btilde_t (v = -1) and beta_t (v = 1), improved DDPM equation 15."""
        share = (variance_pred + 1) / 2
        return share * self.at("log_betas", timesteps) + (1 - share) * self.at("posterior_log_variance", timesteps)

    def posterior_mean(self, x0: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0), DDPM equation 7."""
        return self.at("posterior_mean_x0", timesteps) * x0 + self.at("posterior_mean_xt", timesteps) * noisy_latents


@dataclass(frozen=True)
class Noised:
    """A batch of latents with the noise that was put on it; every draw is explicit."""

    latents: Tensor  # x_0, (B, C, H, W)
    class_labels: Tensor  # (B,)
    timesteps: Tensor  # (B,), 0 .. T-1
    noise: Tensor  # e, (B, C, H, W)
    noisy_latents: Tensor  # x_t, (B, C, H, W)

    def relabelled(self, class_labels: Tensor) -> "Noised":
        """The same noisy latents under other labels."""
        return Noised(self.latents, class_labels, self.timesteps, self.noise, self.noisy_latents)


def draw_noise(schedule: NoiseSchedule, latents: Tensor, class_labels: Tensor, *, generator: torch.Generator) -> Noised:
    """Noise a batch at uniform timesteps; the draws come from a CPU generator on every device."""
    timesteps = torch.randint(schedule.num_timesteps, (len(latents),), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return Noised(latents, class_labels, timesteps, noise, schedule.add_noise(latents, noise, timesteps))


class DenoisingLoss(NamedTuple):
    """Per-sample losses, each (B,): ``denoising = simple + vlb``."""

    simple: Tensor
    vlb: Tensor

    @property
    def denoising(self) -> Tensor:
        """L = L_simple + L_vlb of DiT's training."""
        return self.simple + self.vlb


def denoising_loss(schedule: NoiseSchedule, model_output: Tensor, batch: Noised) -> DenoisingLoss:
    """The hybrid loss of improved DDPM as DiT trains with it.

    ``model_output`` is (B, 2C, H, W): noise prediction, then variance prediction. The variance term never sees the
    gradient of the noise prediction (improved DDPM, section 3.1).
    """
    noise_pred, variance_pred = model_output.float().chunk(2, dim=1)
    simple = (batch.noise - noise_pred).square().flatten(1).mean(1)
    return DenoisingLoss(simple, vlb_loss(schedule, noise_pred.detach(), variance_pred, batch))


def vlb_loss(schedule: NoiseSchedule, noise_pred: Tensor, variance_pred: Tensor, batch: Noised) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) in bits per dimension, (B,); at t = 0 the decoder likelihood."""
    timesteps = batch.timesteps
    x0_pred = schedule.predict_x0(batch.noisy_latents, noise_pred, timesteps)
    mean = schedule.posterior_mean(x0_pred, batch.noisy_latents, timesteps)
    log_variance = schedule.model_log_variance(variance_pred, timesteps)

    true_mean = schedule.posterior_mean(batch.latents, batch.noisy_latents, timesteps)
    true_log_variance = schedule.at("posterior_log_variance", timesteps)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance).flatten(1).mean(1)
    decoder = discretized_gaussian_nll(batch.latents, mean, log_variance / 2).flatten(1).mean(1)
    return torch.where(timesteps == 0, decoder, kl) / math.log(2)


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, variance1) || N(mean2, variance2)) in nats, elementwise."""
    ratio = torch.exp(log_variance1 - log_variance2)
    return 0.5 * (log_variance2 - log_variance1 + ratio + (mean1 - mean2).square() * torch.exp(-log_variance2) - 1)


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log of the mass that N(mean, scale) gives to the bin of width 2/255 around x, in nats, elementwise.

    DDPM section 3.3; the bins at the two ends of [-1, 1] are open. DiT applies it to latents unchanged.
    """
    inverse_scale = torch.exp(-log_scale)
    upper = standard_normal_cdf((x - mean + 1 / 255) * inverse_scale)
    lower = standard_normal_cdf((x - mean - 1 / 255) * inverse_scale)
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return -mass.clamp(min=1e-12).log()


def standard_normal_cdf(x: Tensor) -> Tensor:
    """Phi(x) in the tanh approximation that DDPM's decoder was trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


def drop_labels(class_labels: Tensor, *, probability: float, null_class: int, generator: torch.Generator) -> Tensor:
    """Replace each label by the null class with the given probability, once per sample."""
    dropped = torch.rand(len(class_labels), generator=generator) < probability
    return torch.where(dropped.to(class_labels.device), null_class, class_labels)
