"""What a published size takes, in seconds and in operations a second beside the device's own rate for large products.

Not a comparison: the plain loop stands beside the product in the other benchmarks. Operations are those of the plan:
products with weights and attention of the network, a backward pass as two forward ones.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import timm
import torch
from diffusers import AutoencoderKL

from erase.api.plan import forward_flops
from erase.config import ErasureConfig
from erase.configure import DEFAULT_METHOD, configure, method_of
from erase.diffusion_task import DiffusionTask
from erase.erasure import add_needs
from erase.evidence import cached_fisher
from erase.loop import run_loop
from erase.workspace import Workspace
from eval.features import InceptionScorer
from eval.moments import Moments
from pipelines.classifier import Classifier
from pipelines.generate import generate
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings

from .features import random_extractors
from .models import FORGET_CLASS, LATENT_SIZE, NUM_CLASSES, SIZE_OF, random_dit, random_latents
from .pairs import Stopwatch, in_turns
from .step import counted, ours_of, task_of

PRECISION = "bf16"
GUIDED = SamplerSettings(sampler="ddim", num_inference_steps=50, guidance_scale=4.0, precision=PRECISION)
PLAIN, BATCH_SIZE = "gradient_ascent", 16


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much of each work is done."""

    product: int  # rows and columns of the product that gives the device's rate
    batches: tuple[int, ...]
    fisher: int  # images of the class, and as many of all
    images: int
    batch_size: int  # of these at once
    erasure_steps: int
    methods: tuple[str, ...]  # that erase


AMOUNTS = {
    "cpu": Amount(product=2048, batches=(4,), fisher=8, images=2, batch_size=2, erasure_steps=2, methods=(PLAIN,)),
    "cuda": Amount(
        product=8192, batches=(16, 64), fisher=2000, images=5000, batch_size=250, erasure_steps=300,
        methods=(PLAIN, DEFAULT_METHOD),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One work and what it took."""

    what: str
    seconds: float
    tflop: float | None = None  # that were counted; None where most of the work is not the network's
    aim: str = ""  # of DiT-XL/2 on an H200


def measure(device: torch.device) -> list[Reading]:
    """Everything, on random weights of the device's size, with images and latents that mean nothing."""
    amount, size = AMOUNTS[device.type], SIZE_OF[device.type]
    found = [product(device, amount.product)]
    found += [step(device, batch_size) for batch_size in amount.batches]
    model = random_dit(size, device)
    model.vae = published_vae(device)
    found += [fisher(model, amount.fisher), images(model, amount.images, batch_size=amount.batch_size)]
    found += [erasure(model, name, amount.erasure_steps) for name in amount.methods]
    return found if device.type == "cuda" else [replace(each, aim="") for each in found]


def product(device: torch.device, size: int) -> Reading:
    """One large product in bf16: the rate that the others are held to."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = median(lambda: left @ right, device)
    return Reading(what=f"product of {size} x {size}", seconds=seconds, tflop=2 * size**3 / 1e12)


def step(device: torch.device, batch_size: int) -> Reading:
    """An alternating step."""
    task = task_of(device, batch_size, PRECISION)
    flops = 6 * batch_size * forward_flops(task.workspace.model.transformer)
    seconds = median(counted(ours_of(task)), device)
    aim = "35 to 45 % of the product's rate"
    return Reading(what=f"alternating step, batch {batch_size}", seconds=seconds, tflop=flops / 1e12, aim=aim)


def fisher(model: DiT, num_images: int) -> Reading:
    """Both Fisher diagonals."""
    config = configured(PLAIN)
    workspace = workspace_of(model, config)
    seconds = Stopwatch(model.device).time(
        lambda: [
            cached_fisher(workspace, latents, side, num_samples=num_images, cache_dir=None)
            for side, latents in (("forget", workspace.forget), ("data", workspace.retain))
        ]
    )
    flops = 6 * num_images * forward_flops(model.transformer)
    return Reading(
        what=f"Fisher of {num_images:,} + {num_images:,} images", seconds=seconds, tflop=flops / 1e12, aim="30 s"
    )


def images(model: DiT, num_images: int, *, batch_size: int) -> Reading:
    """Images drawn with guidance, decoded, classified and put through Inception."""
    scorer = random_scorer(model.device)
    moments = Moments(scorer.num_features)

    def work() -> None:
        requests = [(number % model.num_classes, number) for number in range(num_images)]
        for drawn, _ in generate(model, requests, GUIDED, batch_size=batch_size):
            moments.update(scorer.logits_and_features(drawn)[1])

    seconds = Stopwatch(model.device).time(work)
    flops = num_images * GUIDED.network_rows() * forward_flops(model.transformer)
    what = f"{num_images:,} images, {GUIDED.sampler} {GUIDED.num_inference_steps}, guided, decoded and scored"
    return Reading(what=what, seconds=seconds, tflop=flops / 1e12, aim="10,000 in 12 minutes")


def erasure(model: DiT, method: str, steps: int) -> Reading:
    """One class by a method with its defaults: what it needs, and its steps; the model is another one afterwards."""
    config = configured(method, steps=steps)
    found, workspace = method_of(config), workspace_of(model, config)

    def work() -> None:
        add_needs(workspace, workspace.retain, workspace.retain, config, found.needs, cache_dir=None)
        task = DiffusionTask(workspace=workspace, method=found, engine=config.engine)
        run_loop(
            task, config.engine, seed=config.seed, masks=found.masks(workspace), checkpoint_path=None,
            config_hash=config.hash, log=lambda line: None, preview=None, progress=False,
        )  # fmt: skip

    seconds = Stopwatch(model.device).time(work)
    aim = "60 s" if method == PLAIN else "4 minutes"
    return Reading(what=f"one class by {method}, {steps} steps of {BATCH_SIZE} images", seconds=seconds, aim=aim)


def configured(method: str, **options: Any) -> ErasureConfig:
    """A method's defaults at the batch size of large models."""
    sizes = {"forget_batch_size": BATCH_SIZE, "retain_batch_size": BATCH_SIZE}
    options = {**sizes, "precision": PRECISION, "diagnostics": False, "divergence_factor": 1e9, **options}
    return replace(configure("digits", [0], method=method, options=options), forget_classes=(FORGET_CLASS,))


def workspace_of(model: DiT, config: ErasureConfig, *, per_class: int = 4) -> Workspace:
    """Random latents of every class."""
    latents = random_latents(model, torch.arange(NUM_CLASSES).repeat(per_class), torch.Generator().manual_seed(1))
    retained = [label for label in range(NUM_CLASSES) if label != FORGET_CLASS]
    return Workspace(
        model=model, forget_classes=config.forget_classes, forget=latents.of_classes([FORGET_CLASS]),
        retain=latents.of_classes(retained), seed=config.seed, precision=config.precision,
    )  # fmt: skip


def published_vae(device: torch.device) -> AutoencoderKL:
    """The autoencoder of the published DiTs (arXiv 2112.10752) with random weights."""
    widths = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=widths, layers_per_block=2, latent_channels=4, sample_size=8 * LATENT_SIZE,
        down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
    )  # fmt: skip
    return vae.eval().requires_grad_(False).to(device)


def random_scorer(device: torch.device) -> InceptionScorer:
    """ResNet-34 and Inception with random weights."""
    network = (
        timm.create_model("resnet34", num_classes=NUM_CLASSES).eval().to(device, memory_format=torch.channels_last)
    )
    classifier = Classifier(
        name="resnet34", network=network, input_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    return InceptionScorer(classifier, random_extractors(device)[1])


def median(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds, median of the rounds."""
    return statistics.median(in_turns({"work": work}, device)["work"])


def as_records(readings: list[Reading]) -> list[dict[str, Any]]:
    """Readings as plain JSON types, each with its rate and its share of the product's."""
    rates = [None if each.tflop is None else each.tflop / each.seconds for each in readings]
    return [
        {**asdict(each), "tflop_per_second": rate, "share": None if rate is None else rate / rates[0]}
        for each, rate in zip(readings, rates, strict=True)
    ]


def lines(records: list[Mapping[str, Any]]) -> list[str]:
    """Each reading in words."""
    found = []
    for each in records:
        rate = f", {each['tflop_per_second']:.3g} TFLOP/s ({each['share']:.0%})" if each["tflop"] is not None else ""
        aim = f" (aim: {each['aim']})" if each["aim"] else ""
        found.append(f"{each['what']}: {each['seconds']:.3g} s{rate}{aim}")
    return found
