"""One class erased from cached latents of the embedded model and scored: the whole way, by both sides.

The plain side is scored twice, on images of the same sampling steps as the product and on those of 250 DDPM steps. All
of it happens once, in ten minutes; the sides, a process each, take turns every ten steps and every batch of images.
"""

import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
from .pairs import FEWER, SAME, Row, Turns, compared, held

METHOD, FORGET_CLASS = "sfron", 3
NUM_IMAGES = 1000  # of the class, and as many of the others: the embedded model's protocol
NUM_PLAIN_STEPS = 250
BATCH_SIZE = 250
ERASING = 0.5  # share of the whole that is done after it, as far as turns go
AIMS = (1.15, 4.0)

Requests = list[tuple[int, int]]  # (class label, seed) of each image
Draw = Callable[..., Tensor]  # uint8 images (N, 3, H, W) of a model and its requests


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a side did."""

    erasing: float  # seconds
    scoring: list[float]  # seconds with each of its ways to draw
    forget_accuracy: float  # with the first of them
    masks: Path


def measure(device: torch.device) -> list[Row]:
    """The product's way, the plain loop with the same sampling steps, and with steps of its own."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        context.Manager() as manager,
        ProcessPoolExecutor(2, mp_context=context) as pool,
    ):
        shared = {"device": device, "shares": manager.list([0.0, 0.0]), "changed": manager.Condition()}
        futures = [
            pool.submit(side, Path(folder), Turns(place=place, **shared))
            for place, side in enumerate((product_side, plain_side))
        ]
        ours, plain = (each.result() for each in futures)
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


def product_side(folder: Path, turns: Turns) -> Found:
    """Erase and score as the product does."""
    return side_of(erased, {drawn: 1.0}, frechet_distance, folder, turns)


def plain_side(folder: Path, turns: Turns) -> Found:
    """Erase by the plain loop; score images of the same sampling steps, then those of its own."""
    return side_of(plain_erasure, {plain_drawn: 0.6, ddpm: 1.0}, plain_frechet, folder, turns)


def side_of(
    erase: Callable[[ErasureConfig, Path, Turns], tuple[DiT, PhaseMasks]],
    draws: Mapping[Draw, float],
    distance: Callable[..., float],
    folder: Path,
    turns: Turns,
) -> Found:
    """One side on a thread of its own; what it needs is encoded, and every shape met, beforehand.

    ``draws`` are its ways to draw, each with the share of the whole that is done after it.
    """
    torch.set_num_threads(1)
    turns.begin()
    own = folder / str(turns.place)
    run_erasure(short(configured()), cache_dir=own, device=turns.device)
    for kept in own.rglob("fisher-*"):
        kept.unlink()
    turns.pause(0.0)

    marks, scores, share = [turns.seconds], [], ERASING
    model, masks = erase(configured(), own, turns)
    turns.pause(share)
    marks.append(turns.seconds)
    for draw, end in draws.items():
        scores.append(score(model, partial(draw, turns=turns, span=(share, end)), distance))
        turns.pause(share := end)
        marks.append(turns.seconds)
    turns.end()
    torch.save(masks.forget, own / "mask.pt")
    erasing, *scoring = (after - before for before, after in itertools.pairwise(marks))
    return Found(erasing=erasing, scoring=scoring, forget_accuracy=scores[0][0], masks=own / "mask.pt")


def configured() -> ErasureConfig:
    """What is erased, at the method's defaults."""
    return configure("digits", [FORGET_CLASS], method=METHOD)


def erased(config: ErasureConfig, cache_dir: Path, turns: Turns) -> tuple[DiT, PhaseMasks]:
    """The product's erasure, and its masks."""

    def tell(line: dict[str, Any]) -> None:
        turns.pause(ERASING * line["step"] / config.engine.steps)

    found = run_erasure(config, cache_dir=cache_dir, device=turns.device, log=tell)
    return found.model, found.masks


def short(config: ErasureConfig) -> ErasureConfig:
    """The same with few steps and few images in the Fisher diagonals."""
    options = {"steps": 2, "fisher_samples": 2}
    return configure(config.model, list(config.forget_classes), method=config.method, options=options)


def plain_erasure(config: ErasureConfig, cache_dir: Path, turns: Turns) -> tuple[DiT, PhaseMasks]:
    """The same erasure by the plain loop, from latents that are cached as well, and its masks."""
    model, method = load_original(config, device=turns.device), method_of(config)
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
        if step % config.engine.log_every == 0:
            turns.pause(ERASING * step / config.engine.steps)
    return model, masks


def score(model: DiT, draw: Draw, distance: Callable[..., float]) -> tuple[float, float]:
    """Forget accuracy, and the distance of the other classes' features from those of the class."""
    classifier = load_classifier(model.classifier_dir, device=model.device)
    others = [label for label in range(model.num_classes) if label != FORGET_CLASS]
    requests = [(FORGET_CLASS, number) for number in range(NUM_IMAGES)]
    requests += [(others[number % len(others)], number) for number in range(NUM_IMAGES)]
    images = draw(model, requests)
    logits, features = classifier.logits_and_features(images)
    gaussians = [
        Moments(features.shape[1]).update(part).gaussian() for part in (features[:NUM_IMAGES], features[NUM_IMAGES:])
    ]
    return float((logits[:NUM_IMAGES].argmax(1) == FORGET_CLASS).float().mean()), distance(*gaussians)


def drawn(model: DiT, requests: Requests, *, turns: Turns, span: tuple[float, float]) -> Tensor:
    """Images by the settings of the embedded model's protocol."""
    batches = generate(model, requests, SamplerSettings(), batch_size=BATCH_SIZE)
    return gathered((images for images, _ in batches), len(requests), turns, span)


def plain_drawn(model: DiT, requests: Requests, *, turns: Turns, span: tuple[float, float]) -> Tensor:
    """Images by the same steps, one after another."""
    sample = partial(plain_steps, settings=SamplerSettings())
    return gathered(plain_batches(model, requests, sample), len(requests), turns, span)


def ddpm(model: DiT, requests: Requests, *, turns: Turns, span: tuple[float, float]) -> Tensor:
    """Images by the plain loop's sampler."""
    sample = partial(plain_ddpm, num_steps=NUM_PLAIN_STEPS, guidance_scale=1.0)
    return gathered(plain_batches(model, requests, sample), len(requests), turns, span)


def plain_batches(model: DiT, requests: Requests, sample: Callable[..., Tensor]) -> Iterator[Tensor]:
    """Batches of images, sampled and decoded the plain way."""
    for first in range(0, len(requests), BATCH_SIZE):
        labels, seeds = zip(*requests[first : first + BATCH_SIZE], strict=True)
        yield plain_pixels(model, sample(model, torch.tensor(labels), list(seeds)))


def gathered(batches: Iterable[Tensor], total: int, turns: Turns, span: tuple[float, float]) -> Tensor:
    """All images, with a pause after each batch; they are the part ``span`` of the whole."""
    found: list[Tensor] = []
    for images in batches:
        found.append(images)
        turns.pause(span[0] + (span[1] - span[0]) * sum(map(len, found)) / total)
    return torch.cat(found)


def plain_frechet(left: Gaussian, right: Gaussian) -> float:
    """The distance as torchmetrics computes it."""
    return float(_compute_fid(left.mean, left.covariance, right.mean, right.covariance))
