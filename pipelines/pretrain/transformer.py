"""Trains the DiT on latents (arXiv 2212.09748): hybrid loss, label dropout outside the network, averaged weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..classes import ClassNames
from ..diffusion import NoiseSchedule, denoising_loss, draw_noise, drop_labels
from ..embedding import tie_embedders
from ..latents import Latents
from ..model import DiT
from ..randomness import epoch_indices, generator
from .fit import fit
from .recipe import Recipe

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiTTransformer2DModel


def build_dit(vae: "AutoencoderKL", class_names: list[str], recipe: Recipe) -> DiT:
    """An untrained DiT over the latents of a VAE, initialised as the paper says (adaLN-Zero)."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(recipe.seed)
    transformer = DiTTransformer2DModel(
        num_attention_heads=recipe.num_attention_heads,
        attention_head_dim=recipe.attention_head_dim,
        in_channels=vae.config.latent_channels,
        out_channels=2 * vae.config.latent_channels,
        num_layers=recipe.num_layers,
        sample_size=recipe.image_size // 2 ** (len(vae.config.block_out_channels) - 1),
        patch_size=recipe.patch_size,
        num_embeds_ada_norm=len(class_names),
    )
    share_first_embedder(transformer)
    initialise(transformer)
    tie_embedders(transformer, time_embedding="diffusers")
    return DiT(transformer=transformer.eval(), vae=vae, noise_schedule=NoiseSchedule(), classes=ClassNames(class_names))


def share_first_embedder(transformer: "DiTTransformer2DModel") -> None:
    """Give every block the first block's embedder: a new network has one from the start."""
    for block in transformer.transformer_blocks:
        block.norm1.emb = transformer.transformer_blocks[0].norm1.emb


def initialise(transformer: "DiTTransformer2DModel") -> None:
    """DiT's initialisation: Xavier for linear layers, 0.02 for the embedders, zero for every gate and the output."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = transformer.pos_embed.proj
    nn.init.xavier_uniform_(projection.weight.data.flatten(1))
    nn.init.zeros_(projection.bias)

    embedder = transformer.transformer_blocks[0].norm1.emb
    nn.init.normal_(embedder.class_embedder.embedding_table.weight, std=0.02)
    nn.init.normal_(embedder.timestep_embedder.linear_1.weight, std=0.02)
    nn.init.normal_(embedder.timestep_embedder.linear_2.weight, std=0.02)
    zeroed = [block.norm1.linear for block in transformer.transformer_blocks]
    for layer in [*zeroed, transformer.proj_out_1, transformer.proj_out_2]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def train_transformer(
    model: DiT, latents: Latents, recipe: Recipe, *, checkpoint_path: Path | None, progress: bool
) -> None:
    """Train ``model.transformer`` in place on latents; classes that are absent keep their untrained label row."""

    def loss(step: int) -> torch.Tensor:
        batch = epoch_indices(len(latents), recipe.batch_size, step, seed=recipe.seed, stream="transformer")
        draws = generator(recipe.seed, "transformer noise", step)
        labels = drop_labels(
            latents.class_labels[batch],
            probability=recipe.label_dropout,
            null_class=model.null_class,
            generator=draws,
        )
        x0 = latents.draw(batch, generator=draws).to(model.device)
        noised = draw_noise(model.noise_schedule, x0, labels.to(model.device), generator=draws)
        output = model.predict(noised.noisy_latents, noised.timesteps, noised.class_labels)
        return denoising_loss(model.noise_schedule, output, noised).denoising.mean()

    fit(
        model.transformer,
        loss,
        steps=recipe.transformer_steps,
        learning_rate=recipe.transformer_learning_rate,
        ema_half_life=recipe.ema_half_life,
        checkpoint_path=checkpoint_path,
        progress="transformer" if progress else "",
    )
