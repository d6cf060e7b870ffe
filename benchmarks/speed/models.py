"""Random DiTs of the published shapes with a class to erase: what the steps are timed on."""

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

from erase.config import EngineConfig
from erase.diffusion_task import DiffusionTask
from erase.method import Method, method_class
from erase.optimizers import PhaseMasks
from erase.workspace import Workspace
from pipelines.classes import ClassNames
from pipelines.diffusion import NoiseSchedule
from pipelines.embedding import tie_embedders
from pipelines.latents import Latents
from pipelines.model import DiT

SHAPES = {"DiT-S/2": (12, 6, 64), "DiT-XL/2": (28, 16, 72)}  # blocks, heads, width of a head (arXiv 2212.09748)
SIZE_OF = {"cpu": "DiT-S/2", "cuda": "DiT-XL/2"}
NUM_CLASSES, LATENT_SIZE = 1000, 32
FORGET_CLASS = 207
MASK_DENSITY = 0.5


def random_dit(size: str, device: torch.device, *, num_layers: int | None = None) -> DiT:
    """A DiT of a published shape with random weights, for 256-pixel latents of 1,000 classes."""
    blocks, heads, width = SHAPES[size]
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=width, in_channels=4, out_channels=8,
        num_layers=num_layers or blocks, sample_size=LATENT_SIZE, patch_size=2, num_embeds_ada_norm=NUM_CLASSES,
        norm_type="ada_norm_zero", norm_elementwise_affine=False,
    )  # fmt: skip
    tie_embedders(transformer, time_embedding="original", check=False)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=LATENT_SIZE)
    names = ClassNames.imagenet()
    model = DiT(transformer=transformer.eval(), vae=vae.eval(), noise_schedule=NoiseSchedule(), classes=names)
    return model.to(device)


def random_task(
    model: DiT, *, batch_size: int, precision: str = "fp32", method: Method | None = None, num_forget: int = 1
) -> DiffusionTask:
    """The model with random latents of every class, to be erased by plain ascent unless a method is given."""
    draws = torch.Generator().manual_seed(1)
    forget_classes = tuple(range(FORGET_CLASS, FORGET_CLASS + num_forget))
    forget, retain = (
        random_latents(model, labels, draws)
        for labels in (torch.tensor(forget_classes).repeat(256), torch.arange(FORGET_CLASS))
    )
    workspace = Workspace(
        model=model, forget_classes=forget_classes, forget=forget, retain=retain, seed=0, precision=precision
    )
    return DiffusionTask(
        workspace=workspace, method=method or method_class("gradient_ascent")(), engine=engine(batch_size)
    )


def random_latents(model: DiT, labels: torch.Tensor, draws: torch.Generator) -> Latents:
    """Latents that mean nothing, one for each label (N,)."""
    mean = torch.randn(len(labels), 1, *model.latent_shape, generator=draws)
    return Latents.in_memory(mean=mean, std=torch.full_like(mean, 0.1), class_labels=labels)


def engine(batch_size: int, *, steps: int = 1000) -> EngineConfig:
    """Alternating steps of two optimizers at constant learning rates."""
    return EngineConfig(
        steps=steps, forget_batch_size=batch_size, retain_batch_size=batch_size, forget_lr_schedule="constant",
        retain_lr_schedule="constant", diagnostics=False,
    )  # fmt: skip


def random_masks(task: DiffusionTask) -> PhaseMasks:
    """A forget mask of half of the weights, drawn at random."""
    draws = torch.Generator().manual_seed(2)
    mask = {
        name: (torch.rand(each.shape, generator=draws) < MASK_DENSITY).to(each.device)
        for name, each in task.parameters.items()
    }
    return PhaseMasks(forget=mask)
