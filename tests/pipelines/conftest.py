"""A tiny real DiT with random weights, its twin in diffusers' layout, a tiny VAE and a folder of pictures."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from PIL import Image
from torch import nn

from pipelines.classes import ClassNames
from pipelines.diffusion import Noised, NoiseSchedule, draw_noise
from pipelines.embedding import tie_embedders
from pipelines.model import DiT, save

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SIZE, LEVELS = 16, 3  # three VAE levels: latents of 4x4


def randomise(network: nn.Module, *, seed: int, std: float) -> None:
    """Random weights everywhere: adaLN-Zero and zero biases would hide mistakes."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws) * std


@pytest.fixture(scope="session")
def untied() -> DiTTransformer2DModel:
    """The transformer as diffusers makes it: one embedder per block, all copies equal. Not to be changed."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=IMAGE_SIZE // 2 ** (LEVELS - 1),
        patch_size=2,
        num_embeds_ada_norm=len(NAMES),
    )
    randomise(transformer, seed=1, std=0.2)
    first, *others = (block.norm1.emb for block in transformer.transformer_blocks)
    first.class_embedder.embedding_table.weight.data *= 5
    for other in others:
        other.load_state_dict(first.state_dict())
    return transformer.eval()


@pytest.fixture(scope="session")
def vae() -> AutoencoderKL:
    """A random VAE whose decoder spreads over the range of pixels. Not to be changed."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * LEVELS,
        up_block_types=("UpDecoderBlock2D",) * LEVELS,
        block_out_channels=(8,) * LEVELS,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        scaling_factor=0.3,
    )
    randomise(vae, seed=2, std=0.15)
    vae.decoder.conv_out.weight.data *= 8
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny(untied: DiTTransformer2DModel, vae: AutoencoderKL) -> DiT:
    """The bundle with tied embedders. Not to be changed: ``fresh`` is a copy for that."""
    transformer = copy.deepcopy(untied)
    tie_embedders(transformer, time_embedding="diffusers")
    return DiT(
        transformer=transformer,
        vae=vae,
        noise_schedule=NoiseSchedule(),
        classes=ClassNames(NAMES),
        guided_channels=3,
        provenance={"data": "nothing", "steps": [1, 2]},
    )


@pytest.fixture
def fresh(tiny: DiT) -> DiT:
    """A copy of the bundle that a test may change."""
    return copy.deepcopy(tiny)


@pytest.fixture(scope="session")
def saved(tiny: DiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model on disk. Not to be changed."""
    return save(tiny, tmp_path_factory.mktemp("saved") / "model", card=lambda folder: "# A card\n")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved model that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def noised(tiny: DiT) -> Noised:
    """Six noised latents of as many classes, the null class among them."""
    draws = torch.Generator().manual_seed(3)
    latents = torch.randn(6, *tiny.latent_shape, generator=draws)
    return draw_noise(tiny.noise_schedule, latents, torch.tensor([0, 3, 9, 10, 3, 1]), generator=draws)


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes ``per_class`` PNGs for each name: bright noise above dark noise, or the reverse for every second class."""

    def write(names: tuple[str, ...] = ("alpha", "beta"), *, per_class: int = 20, seed: int = 0) -> Path:
        root, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(seed)
        for index, name in enumerate(names):
            (root / name).mkdir(parents=True)
            for number in range(per_class):
                pixels = draws.integers(0, 90, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
                pixels[: IMAGE_SIZE // 2] += np.uint8(160 * (index % 2))
                pixels[IMAGE_SIZE // 2 :] += np.uint8(160 * (1 - index % 2))
                Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
        return root

    return write
