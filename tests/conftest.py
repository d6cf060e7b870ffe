"""A tiny real DiT on disk, latents of its classes, and workspaces around them for every erasure method."""

import copy
import dataclasses
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from torch import nn

from erase import erasure
from erase.config import ErasureConfig
from erase.configure import configure
from erase.method import Method, method_class
from erase.workspace import Workspace
from pipelines.classes import ClassNames
from pipelines.diffusion import NoiseSchedule
from pipelines.embedding import label_table, tie_embedders
from pipelines.latents import Latents
from pipelines.model import DiT, load, save
from pipelines.posterior import PosteriorNetwork, PosteriorRecipe
from pipelines.pretrain.recipe import Recipe
from pipelines.randomness import generator

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks are not installed; what is installed goes first

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LEVELS = 3  # of the VAE: 16 pixels become latents of 4x4
RECIPE = Recipe(
    image_size=16, patch_size=2, num_layers=2, num_attention_heads=2, attention_head_dim=8, transformer_steps=15,
    batch_size=16, ema_half_life=2.0,
)  # fmt: skip


@pytest.fixture(scope="session")
def original_dit() -> ModuleType:
    """An independent implementation of the original DiT: random checkpoints and their forward pass."""
    path = Path(__file__).parent / "pipelines" / "original_dit.py"
    spec = importlib.util.spec_from_file_location("original_dit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C acts as in a terminal: a shell that starts the tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> Iterator[None]:
    """One thread: sums have one order, and small models run faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randomise(network: nn.Module, *, seed: int, std: float) -> None:
    """Random weights everywhere: adaLN-Zero and zero biases would hide mistakes."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws) * std


def tiny_vae() -> AutoencoderKL:
    """A random VAE for 16x16 images."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * LEVELS,
        up_block_types=("UpDecoderBlock2D",) * LEVELS,
        block_out_channels=(8,) * LEVELS,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=RECIPE.image_size,
        mid_block_add_attention=False,
        scaling_factor=0.3,
    )
    randomise(vae, seed=2, std=0.15)
    return vae.eval().requires_grad_(False)


def tiny_transformer() -> DiTTransformer2DModel:
    """A random transformer whose blocks hold equal embedders, as diffusers makes them."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=RECIPE.num_attention_heads,
        attention_head_dim=RECIPE.attention_head_dim,
        in_channels=4,
        out_channels=8,
        num_layers=RECIPE.num_layers,
        sample_size=RECIPE.image_size // 2 ** (LEVELS - 1),
        patch_size=RECIPE.patch_size,
        num_embeds_ada_norm=len(NAMES),
    )
    randomise(transformer, seed=1, std=0.2)
    first, *others = (block.norm1.emb for block in transformer.transformer_blocks)
    first.class_embedder.embedding_table.weight.data *= 5
    for other in others:
        other.load_state_dict(first.state_dict())
    return transformer.eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a diffusers folder, with the recipe that would retrain it."""
    transformer = tiny_transformer()
    tie_embedders(transformer, time_embedding="diffusers")
    provenance = {"data": "nothing", "recipe": dataclasses.asdict(RECIPE)}
    model = DiT(
        transformer=transformer,
        vae=tiny_vae(),
        noise_schedule=NoiseSchedule(),
        classes=ClassNames(NAMES),
        provenance=provenance,
    )
    return save(model, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def loaded_dit(tiny_folder: Path) -> DiT:
    """The model as it is loaded. Not to be changed: ``tiny_dit`` is a copy for that."""
    return load(tiny_folder)


@pytest.fixture
def tiny_dit(loaded_dit: DiT) -> DiT:
    """A copy of the tiny model that a test may change; embedders tied, ten classes, latents 4x4x4."""
    return copy.deepcopy(loaded_dit)


@pytest.fixture(scope="session")
def toy_latents() -> Latents:
    """Twelve latents of each class around class means, sorted by class as a folder would give them."""
    draws = torch.Generator().manual_seed(4)
    labels = torch.arange(len(NAMES)).repeat_interleave(12)
    centres = torch.randn(len(NAMES), 1, 4, 4, 4, generator=draws)
    mean = centres[labels] + 0.3 * torch.randn(len(labels), 1, 4, 4, 4, generator=draws)
    return Latents.in_memory(mean=mean, std=torch.full_like(mean, 0.1), class_labels=labels)


@pytest.fixture
def make_workspace(tiny_dit: DiT, toy_latents: Latents) -> Callable[..., Workspace]:
    """``make_workspace(forget_classes=(3,), away=True)``: a workspace with everything a method may need.

    The Fisher diagonals and the posterior are random; ``away`` moves the model off its frozen reference.
    """

    def make(forget_classes: tuple[int, ...] = (3,), *, away: bool = True, seed: int = 0) -> Workspace:
        model = copy.deepcopy(tiny_dit)
        retained = [index for index in range(len(NAMES)) if index not in forget_classes]
        workspace = Workspace(
            model=model,
            forget_classes=forget_classes,
            forget=toy_latents.of_classes(list(forget_classes)),
            retain=toy_latents.of_classes(retained),
            seed=seed,
        )
        workspace.reference = model.frozen_copy()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            workspace.posterior = PosteriorNetwork(model.latent_shape, len(NAMES), width=16, depth=1).eval()
        for side in ("forget", "data"):
            setattr(workspace, f"{side}_fisher", random_fisher(model, side))
        workspace.forget_share = len(workspace.forget) / len(toy_latents)
        if away:
            nudge(model)
        return workspace

    return make


def random_fisher(model: DiT, side: str) -> dict[str, torch.Tensor]:
    """Squares of normal draws, like the squared gradients of one sample."""
    draws = generator(6, side)
    weights = model.transformer.named_parameters()
    return {name: torch.randn(each.shape, generator=draws).square() for name, each in weights}


def nudge(model: DiT, *, std: float = 0.05) -> None:
    """Move every weight a little, label rows included."""
    draws = torch.Generator().manual_seed(7)
    for parameter in model.transformer.parameters():
        parameter.data = parameter.data + std * torch.randn(parameter.shape, generator=draws)
    assert label_table(model.transformer).requires_grad


@pytest.fixture(scope="session")
def erase_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the tiny erasures of a session share: their replayed latents are sampled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quick_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Erasures train the posterior for a few steps only."""
    monkeypatch.setattr(erasure, "recipe_of", lambda kind, num_classes: PosteriorRecipe(steps=4, batch_size=16))


@pytest.fixture
def method_of() -> Callable[..., Method]:
    """``method_of("sfron", weight_power=0.0)``: a method by name with its options."""
    return lambda name, **options: method_class(name)(**options)


@pytest.fixture
def configured(tiny_folder: Path) -> Callable[..., ErasureConfig]:
    """``configured("sfron", steps=3)``: a small request to erase three, or other classes, from the tiny model."""
    batches = {"forget_batch_size": 8, "retain_batch_size": 8}

    def make(
        method: str = "sfron", *classes: str | int, preset: str = "default", data: str | None = None, **options: Any
    ) -> ErasureConfig:
        named, model = classes or ("three",), str(tiny_folder)
        small = dict(batches) if method_class(method).trains else {}
        if method in ("sfron", "selective_amnesia"):
            small["fisher_samples"] = 6
        if data in (None, "replay") or method == "selective_amnesia":
            small["replay_per_class"] = 4
        return configure(model, named, method=method, preset=preset, data=data, options={**small, **options})

    return make
