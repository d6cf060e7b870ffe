"""One class erased from cached latents of the embedded model and scored: the whole way, by both sides.

The plain side is scored twice, on images of the same sampling steps as the product and on those of 250 DDPM steps. All
of it happens once: ten minutes, in which single steps even out.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from erase.config import ErasureConfig
from erase.configure import configure, method_of
from erase.diffusion_task import DiffusionTask
from erase.erasure import images_of, load_original, prepare, run_erasure
from erase.evidence import evidence_batch
from erase.optimizers import PhaseMasks
from eval.moments import Gaussian, Moments, frechet_distance
from pipelines.classifier import load_classifier
from pipelines.generate import generate
from pipelines.latents import Latents
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings

from .baseline import PlainLoop, plain_ddpm, plain_fisher, plain_pixels, plain_steps
from .fisher import jaccard
from .pairs import FEWER, SAME, Row, Stopwatch, compared, held

METHOD, FORGET_CLASS = "sfron", 3
NUM_IMAGES = 1000  # of the class, and as many of the others: the embedded model's protocol
NUM_PLAIN_STEPS = 250
BATCH_SIZE = 250
AIMS = (1.15, 4.0)

Images = Callable[[DiT, list[tuple[int, int]]], Tensor]  # uint8 (N, 3, H, W) of (class label, seed)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a side did."""

    erasing: float  # seconds
    scoring: list[float]  # seconds with each of its ways to draw
    forget_accuracy: float  # with the first of them
    masks: Path


def measure(device: torch.device) -> list[Row]:
    """The product's way, the plain loop with the same images, and with images of its own: a process for each side."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:  # fmt: skip
        ours, plain = (pool.submit(side, Path(folder), device).result() for side in (product_side, plain_side))
        masks = [torch.load(each.masks) for each in (ours, plain)]

    # Both sides have the same mask, and models that score alike.
    gate = held("masks apart", 1 - jaccard(*masks), 0.02)
    gate |= held("forget accuracy", abs(ours.forget_accuracy - plain.forget_accuracy), 0.05)
    config = configured()
    work = f"digits, {METHOD}, {config.engine.steps} steps, {2 * NUM_IMAGES:,} images, once"
    case = {"benchmark": "end to end", "case": work, "gate": gate}
    same, own = (
        {"baseline": [plain.erasing + scoring], "ours": [ours.erasing + ours.scoring[0]]} for scoring in plain.scoring
    )
    return [
        compared(same, "ours", **case, lane=SAME, at_least=AIMS[0]),
        compared(own, "ours", **case, lane=FEWER, at_least=AIMS[1]),
    ]


def product_side(folder: Path, device: torch.device) -> Found:
    """Erase and score as the product does."""
    return side_of("ours", erased, [drawn], frechet_distance, folder, device)


def plain_side(folder: Path, device: torch.device) -> Found:
    """Erase by the plain loop; score images of the same sampling steps, then those of its own."""
    return side_of("plain", plain_erasure, [plain_drawn, ddpm], plain_frechet, folder, device)


def side_of(
    name: str,
    erase: Callable[[ErasureConfig, Path, torch.device], tuple[DiT, PhaseMasks]],
    draws: Sequence[Images],
    distance: Callable[..., float],
    folder: Path,
    device: torch.device,
) -> Found:
    """Time one side on a thread of its own; what it needs is encoded, and every shape met, beforehand."""
    torch.set_num_threads(1)
    config, watch = configured(), Stopwatch(device)
    run_erasure(short(config), cache_dir=folder, device=device)
    for kept in folder.rglob("fisher-*"):
        kept.unlink()

    made: list[tuple[DiT, PhaseMasks]] = []
    erasing = watch.time(lambda: made.append(erase(config, folder, device)))
    model, masks = made[0]
    torch.save(masks.forget, folder / f"{name}.pt")
    scores: list[tuple[float, float]] = []
    scoring = [watch.time(lambda images=images: scores.append(score(model, images, distance))) for images in draws]
    return Found(erasing=erasing, scoring=scoring, forget_accuracy=scores[0][0], masks=folder / f"{name}.pt")


def configured() -> ErasureConfig:
    """What is erased, at the method's defaults."""
    return configure("digits", [FORGET_CLASS], method=METHOD)


def erased(config: ErasureConfig, cache_dir: Path, device: torch.device) -> tuple[DiT, PhaseMasks]:
    """The product's erasure, and its masks."""
    found = run_erasure(config, cache_dir=cache_dir, device=device)
    return found.model, found.masks


def short(config: ErasureConfig) -> ErasureConfig:
    """The same with few steps and few images in the Fisher diagonals."""
    options = {"steps": 2, "fisher_samples": 2}
    return configure(config.model, list(config.forget_classes), method=config.method, options=options)


def plain_erasure(config: ErasureConfig, cache_dir: Path, device: torch.device) -> tuple[DiT, PhaseMasks]:
    """The same erasure by the plain loop, from the same cached latents, and its masks."""
    model, method = load_original(config, device=device), method_of(config)
    workspace = prepare(model, short(config), method, cache_dir=cache_dir, work_dir=None, progress=False)
    task = DiffusionTask(workspace=workspace, method=method, engine=config.engine)
    everything, _ = images_of(model, config, config.data, cache_dir=cache_dir, progress=False)

    def fisher(side: str, latents: Latents) -> dict[str, Tensor]:
        image = evidence_batch(workspace, latents, side, batch_size=1)
        return plain_fisher(task, [image(number) for number in range(config.fisher_samples)])

    workspace.forget_fisher, workspace.data_fisher = fisher("forget", workspace.forget), fisher("data", everything)
    masks = method.masks(workspace)
    loop = PlainLoop(task, config.engine, masks)
    for step in range(config.engine.steps):
        loop.run(step)
    return model, masks


def score(model: DiT, images_of: Images, distance: Callable[..., float]) -> tuple[float, float]:
    """Forget accuracy, and the distance of the other classes' features from those of the class."""
    classifier = load_classifier(model.classifier_dir, device=model.device)
    others = [label for label in range(model.num_classes) if label != FORGET_CLASS]
    requests = [(FORGET_CLASS, number) for number in range(NUM_IMAGES)]
    requests += [(others[number % len(others)], number) for number in range(NUM_IMAGES)]
    images = images_of(model, requests)
    logits, features = classifier.logits_and_features(images)
    gaussians = [
        Moments(features.shape[1]).update(part).gaussian() for part in (features[:NUM_IMAGES], features[NUM_IMAGES:])
    ]
    return float((logits[:NUM_IMAGES].argmax(1) == FORGET_CLASS).float().mean()), distance(*gaussians)


def drawn(model: DiT, requests: list[tuple[int, int]]) -> Tensor:
    """Images by the settings of the embedded model's protocol."""
    return torch.cat([images for images, _ in generate(model, requests, SamplerSettings(), batch_size=BATCH_SIZE)])


def plain_drawn(model: DiT, requests: list[tuple[int, int]]) -> Tensor:
    """Images by the same steps, one after another."""
    return in_batches(requests, model, partial(plain_steps, settings=SamplerSettings()))


def ddpm(model: DiT, requests: list[tuple[int, int]]) -> Tensor:
    """Images by the plain loop's sampler."""
    return in_batches(requests, model, partial(plain_ddpm, num_steps=NUM_PLAIN_STEPS, guidance_scale=1.0))


def in_batches(requests: list[tuple[int, int]], model: DiT, sample: Callable[..., Tensor]) -> Tensor:
    """Sample and decode the plain way."""
    found = []
    for first in range(0, len(requests), BATCH_SIZE):
        labels, seeds = zip(*requests[first : first + BATCH_SIZE], strict=True)
        found.append(plain_pixels(model, sample(model, torch.tensor(labels), list(seeds))))
    return torch.cat(found)


def plain_frechet(left: Gaussian, right: Gaussian) -> float:
    """The distance as torchmetrics computes it."""
    return float(_compute_fid(left.mean, left.covariance, right.mean, right.covariance))
