"""p(c | x_t, t): a small time-conditional classifier of noisy latents.

It gives the mixture of ``retain_posterior`` its weights, and without noise it judges an early stop.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .diffusion import Noised, draw_noise
from .files import is_safetensors, replace_file
from .latents import Latents
from .model import DiT
from .pretrain.fit import fit
from .randomness import epoch_indices, generator
from .ranks import copy_from_first, on_first


class Posterior(nn.Module):
    """Noisy latents (B, C, H, W) and timesteps (B,) to class logits (B, num_classes)."""

    @torch.no_grad()
    def retained(self, noised: Noised, removed_classes: tuple[int, ...]) -> Tensor:
        """p(c | x_t, c retained) as probabilities (B, num_classes), exactly zero at the removed classes."""
        logits = self(noised.noisy_latents, noised.timesteps)
        logits[:, list(removed_classes)] = -torch.inf
        return logits.softmax(dim=1)


class PosteriorNetwork(Posterior):
    """A residual MLP over flattened latents whose layers are modulated by the timestep: for small latents."""

    def __init__(self, latent_shape: tuple[int, int, int], num_classes: int, *, width: int = 512, depth: int = 3):
        from diffusers.models.embeddings import Timesteps

        super().__init__()
        self.time_proj = Timesteps(num_channels=64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_mlp = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 2 * width * depth))
        self.stem = nn.Linear(latent_shape[0] * latent_shape[1] * latent_shape[2], width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(0.2), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        hidden = self.stem(noisy_latents.flatten(1))
        modulation = self.time_mlp(self.time_proj(timesteps)).chunk(2 * len(self.layers), dim=1)
        for index, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            shift, scale = modulation[2 * index], modulation[2 * index + 1]
            hidden = hidden + layer(norm(hidden) * (1 + scale) + shift)
        return self.head(hidden)


@dataclass(frozen=True)
class LatentClassifier:
    """The posterior at timestep 0: it recognises classes in latents without noise."""

    network: Posterior

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Predicted class indices (N,) of latents (N, C, H, W), on the CPU."""
        timesteps = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        return self.network(latents, timesteps).argmax(1).cpu()


@dataclass(frozen=True, kw_only=True)
class PosteriorRecipe:
    """How the posterior is trained; class priors are the training frequencies."""

    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 2e-3


def train_posterior(
    model: DiT, latents: Latents, recipe: PosteriorRecipe, *, seed: int, cache_dir: Path | None, progress: bool = False
) -> PosteriorNetwork:
    """The posterior of a model's classes on its training latents, from the cache where the same was made before."""
    network = new_network(model, seed).to(model.device)
    path = None if cache_dir is None else cache_dir / f"posterior-{cache_key(model, latents, recipe, seed)}.safetensors"
    made_once(
        network, path, lambda: fit_posterior(network, network, model, latents, recipe, seed=seed, progress=progress)
    )
    return network


def made_once(network: nn.Module, path: Path | None, train: Callable[[], None]) -> None:
    """Fill a network's weights from a file, or train it and write that file; rank 0 does it for all ranks."""

    def make() -> None:
        if path is not None and is_safetensors(path):
            network.load_state_dict(load_file(path))
            return
        train()
        if path is not None:
            with replace_file(path) as temporary:
                save_file({name: tensor.cpu() for name, tensor in network.state_dict().items()}, temporary)

    on_first(make)
    network.eval().requires_grad_(False)
    copy_from_first(list(network.state_dict().values()))


def fit_posterior(
    network: nn.Module,
    logits_of: Callable[[Tensor, Tensor], Tensor],
    model: DiT,
    latents: Latents,
    recipe: PosteriorRecipe,
    *,
    seed: int,
    progress: bool,
) -> None:
    """Train a new network in place; ``logits_of(noisy_latents, timesteps)`` is what its weights make of a batch."""

    def loss(step: int) -> Tensor:
        indices = epoch_indices(len(latents), recipe.batch_size, step, seed=seed, stream="posterior order")
        draws = generator(seed, "posterior noise", step)
        x0, labels = latents.draw(indices, generator=draws).to(model.device), latents.class_labels[indices]
        noised = draw_noise(model.noise_schedule, x0, labels.to(model.device), generator=draws)
        return cross_entropy(logits_of(noised.noisy_latents, noised.timesteps), noised.class_labels)

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout draws from the global generator
        fit(
            network.train(),
            loss,
            steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            weight_decay=0.05,
            ema_half_life=50,
            progress="posterior" if progress else "",
        )


def new_network(model: DiT, seed: int) -> PosteriorNetwork:
    """An untrained network of the model's shape; its initialisation depends on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PosteriorNetwork(model.latent_shape, model.num_classes)


def cache_key(model: DiT, latents: Latents, recipe: PosteriorRecipe, seed: int) -> str:
    """Twelve hex digits for the data, the shape and the recipe; the transformer's weights play no part."""
    facts = [vars(recipe), model.latent_shape, model.num_classes, seed, latents.key]
    return sha256(json.dumps(facts).encode()).hexdigest()[:12]
