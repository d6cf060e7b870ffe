"""Every choice that makes a small class-conditional model, as one frozen dataclass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train VAE, DiT and classifier on one image folder; the defaults make the embedded digits model."""

    image_size: int = 32
    seed: int = 0

    # Classifier: timm's smallest ResNet.
    classifier_architecture: str = "test_resnet"
    classifier_steps: int = 1000
    classifier_learning_rate: float = 2e-3

    # VAE: a factor of 8 as in Stable Diffusion's, so 32 pixels become 4x4 latents with 4 channels.
    vae_channels: tuple[int, ...] = (16, 32, 64, 64)
    vae_steps: int = 1200
    vae_learning_rate: float = 2e-3
    vae_kl_weight: float = 3e-2

    # DiT: 16 tokens, learned variance as in DiT-XL/2.
    patch_size: int = 1
    num_layers: int = 6
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    transformer_steps: int = 5000
    transformer_learning_rate: float = 1e-3
    label_dropout: float = 0.1
    ema_half_life: float = 100.0

    batch_size: int = 128


def recipe_of(provenance: Mapping[str, Any]) -> Recipe | None:
    """The recipe in a model's provenance; None for a model that ``erase pretrain`` did not make."""
    values = provenance.get("recipe")
    if values is None:
        return None
    return Recipe(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
