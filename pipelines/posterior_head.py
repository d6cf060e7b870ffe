"""p(c | x_t, t) for any DiT: a linear head on what a middle block of the frozen network makes of noisy latents.

The network is asked under the null label and only as far as that block. For small latents the classifier of
``pipelines.posterior`` is better and cheaper; ``posterior_kind`` says which one a shape gets.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .delta import weights_sha256
from .errors import UsageError
from .latents import Latents
from .model import DiT
from .posterior import Posterior, PosteriorNetwork, PosteriorRecipe, fit_posterior, made_once, train_posterior

PosteriorKind = Literal["network", "head"]
PosteriorChoice = Literal["auto", "network", "head"]
SMALL_LATENT = 256  # values of a latent, 4 x 8 x 8, up to which flattening it loses nothing
LEAST_STEPS, STEPS_PER_CLASS = 1000, 5  # of a head's training

Shape = tuple[int, int, int]


class BlockHead(nn.Module):
    """Mean and deviation over tokens, modulated by the timestep, to logits: (B, 2D) and (B,) to (B, num_classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        from diffusers.models.embeddings import Timesteps

        super().__init__()
        self.time_proj = Timesteps(num_channels=64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_mlp = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 4 * width))
        self.norm = nn.LayerNorm(2 * width)
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, features: Tensor, timesteps: Tensor) -> Tensor:
        shift, scale = self.time_mlp(self.time_proj(timesteps)).chunk(2, dim=1)
        return self.linear(self.norm(features) * (1 + scale) + shift)


class HeadPosterior(Posterior):
    """A head with the frozen network that it reads; only the head's weights are its own."""

    def __init__(self, model: DiT, *, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        super().__init__()
        config = model.transformer.config
        self.head = BlockHead(config.num_attention_heads * config.attention_head_dim, model.num_classes)
        self.model = model  # no module, so that its weights are neither moved nor saved with the head
        self.precision = precision

    def forward(self, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        return self.head(self.features(noisy_latents, timesteps), timesteps)

    def features(self, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Mean and standard deviation (B, 2D) over the tokens that the middle block gives under the null label."""
        transformer = self.model.transformer
        labels = torch.full_like(timesteps, self.model.null_class)
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            tokens = transformer.pos_embed(noisy_latents)
            for block in transformer.transformer_blocks[: num_read(transformer.config)]:
                tokens = block(tokens, timestep=timesteps, class_labels=labels)
        tokens = tokens.float()
        return torch.cat([tokens.mean(dim=1), tokens.std(dim=1)], dim=1)


def num_read(transformer_config: Mapping[str, Any]) -> int:
    """How many blocks a head needs: the first half of them."""
    return max(1, transformer_config["num_layers"] // 2)


def depth_share(transformer_config: Mapping[str, Any]) -> float:
    """The share of a forward pass that a head needs."""
    return num_read(transformer_config) / transformer_config["num_layers"]


def posterior_kind(choice: PosteriorChoice, latent_shape: Shape) -> PosteriorKind:
    """What a choice comes to for a shape of latents: ``auto`` takes the network for small ones (``UsageError``)."""
    if choice not in get_args(PosteriorChoice):
        raise UsageError(f"--posterior {choice!r} is not one of {', '.join(get_args(PosteriorChoice))}")
    if choice != "auto":
        return choice
    channels, height, width = latent_shape
    return "network" if channels * height * width <= SMALL_LATENT else "head"


def forward_share(choice: PosteriorChoice, transformer_config: Mapping[str, Any]) -> float:
    """The share of a forward pass of the model that a chosen posterior takes for an image."""
    is_head = posterior_kind(choice, latent_shape_of(transformer_config)) == "head"
    return depth_share(transformer_config) if is_head else 0.0


def recipe_of(kind: PosteriorKind, num_classes: int) -> PosteriorRecipe:
    """How a posterior of a kind is trained."""
    if kind == "network":
        return PosteriorRecipe()
    return PosteriorRecipe(steps=max(LEAST_STEPS, STEPS_PER_CLASS * num_classes), batch_size=128)


def make_posterior(
    model: DiT,
    latents: Latents,
    kind: PosteriorKind,
    recipe: PosteriorRecipe,
    *,
    seed: int,
    cache_dir: Path | None,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: bool = False,
) -> Posterior:
    """The posterior of a frozen model's classes, from the cache where the same was made before.

    ``model`` is read as long as a head is in use: its weights must stay as they are.
    """
    if kind == "network":
        return train_posterior(model, latents, recipe, seed=seed, cache_dir=cache_dir, progress=progress)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        posterior = HeadPosterior(model, precision=precision).to(model.device)

    def logits(noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        with torch.no_grad():
            features = posterior.features(noisy_latents, timesteps)
        return posterior.head(features, timesteps)

    def train() -> None:
        fit_posterior(posterior.head, logits, model, latents, recipe, seed=seed, progress=progress)

    key = head_key(posterior, latents, recipe, seed)
    made_once(posterior, None if cache_dir is None else cache_dir / f"posterior-head-{key}.safetensors", train)
    return posterior


def head_key(posterior: HeadPosterior, latents: Latents, recipe: PosteriorRecipe, seed: int) -> str:
    """Twelve hex digits for the network's weights and behaviour, the data, the recipe and the precision."""
    model = posterior.model
    network = [weights_sha256(model.transformer), model.behaviour(), num_read(model.transformer.config)]
    facts = [network, vars(recipe), posterior.precision, seed, latents.key]
    return sha256(json.dumps(facts).encode()).hexdigest()[:12]


def posterior_weights(kind: PosteriorKind, transformer_config: Mapping[str, Any]) -> int:
    """Number of weights that a posterior adds to those of the network."""
    config, num_classes = transformer_config, transformer_config["num_embeds_ada_norm"]
    with torch.device("meta"):
        if kind == "head":
            added: nn.Module = BlockHead(config["num_attention_heads"] * config["attention_head_dim"], num_classes)
        else:
            added = PosteriorNetwork(latent_shape_of(config), num_classes)
    return sum(each.numel() for each in added.parameters())


def latent_shape_of(transformer_config: Mapping[str, Any]) -> Shape:
    """(C, H, W) of one latent."""
    size = transformer_config["sample_size"]
    return (transformer_config["in_channels"], size, size)


def training_flops(
    kind: PosteriorKind, transformer_config: Mapping[str, Any], recipe: PosteriorRecipe, *, row_flops: float
) -> float:
    """Floating-point operations of the training; ``row_flops`` are those of one row through the whole network.

    Two for each added weight and row forward, as many again twice back; a head's network runs forward only.
    """
    added = 6.0 * posterior_weights(kind, transformer_config)
    read = row_flops * depth_share(transformer_config) if kind == "head" else 0.0
    return (added + read) * recipe.batch_size * recipe.steps


def gradient_flops(kind: PosteriorKind, transformer_config: Mapping[str, Any], *, row_flops: float) -> float:
    """Floating-point operations of one row's logits and of their gradient in the latents: as many back as forward."""
    read = row_flops * depth_share(transformer_config) if kind == "head" else 0.0
    return 2 * (2.0 * posterior_weights(kind, transformer_config) + read)
