"""Trains a small ``AutoencoderKL`` (arXiv 2112.10752, section 3.1, without the adversarial term)."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import l1_loss, mse_loss

from ..images import ImageSet
from ..randomness import epoch_indices, generator
from .fit import fit
from .recipe import Recipe


def train_vae(images: ImageSet, recipe: Recipe, *, checkpoint_path: Path | None, progress: bool) -> AutoencoderKL:
    """A VAE with 4 latent channels at an eighth of the resolution; its scaling factor gives latents unit variance."""
    torch.manual_seed(recipe.seed)
    levels = len(recipe.vae_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.vae_channels,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=recipe.image_size,
        mid_block_add_attention=False,
    )

    def loss(step: int) -> torch.Tensor:
        batch = epoch_indices(len(images), recipe.batch_size // 2, step, seed=recipe.seed, stream="vae")
        draws = generator(recipe.seed, "vae noise", step)
        pixels = images.read(batch).float() / 127.5 - 1
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=draws)
        restored = vae.decode(latents).sample
        kl = posterior.kl().mean() / pixels[0].numel()
        return mse_loss(restored, pixels) + 0.1 * l1_loss(restored, pixels) + recipe.vae_kl_weight * kl

    fit(
        vae,
        loss,
        steps=recipe.vae_steps,
        learning_rate=recipe.vae_learning_rate,
        checkpoint_path=checkpoint_path,
        progress="VAE" if progress else "",
    )
    vae.register_to_config(scaling_factor=1 / latent_deviation(vae, images))
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def latent_deviation(vae: AutoencoderKL, images: ImageSet) -> float:
    """Standard deviation of posterior samples over (at most 1,000) images, all channels together."""
    pixels = images.read(torch.arange(min(len(images), 1000))).float() / 127.5 - 1
    posterior = vae.encode(pixels).latent_dist
    return (posterior.mean.var() + posterior.std.square().mean()).sqrt().item()
