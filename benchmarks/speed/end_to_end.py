"""One class erased from cached latents of the embedded model and scored: the whole way, by both sides.

The plain side is scored twice, on the product's own images and on those of 250 DDPM steps. All of it happens once: ten
minutes, in which single steps even out.
"""

import tempfile
from collections.abc import Callable
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

from .baseline import PlainLoop, plain_ddpm, plain_fisher
from .fisher import jaccard
from .pairs import FEWER, SAME, Row, Stopwatch, compared, held

METHOD, FORGET_CLASS = "sfron", 3
NUM_IMAGES = 1000  # of the class, and as many of the others: the embedded model's protocol
NUM_PLAIN_STEPS = 250
BATCH_SIZE = 250
AIMS = (1.15, 4.0)

Images = Callable[[DiT, list[tuple[int, int]]], Tensor]  # uint8 (N, 3, H, W) of (class label, seed)


def measure(device: torch.device) -> list[Row]:
    """The product's way, the plain loop with the same images, and with images of its own."""
    config, watch = configure("digits", [FORGET_CLASS], method=METHOD), Stopwatch(device)
    made: dict[str, tuple[DiT, PhaseMasks]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache_dir = Path(folder)
        run_erasure(short(config), cache_dir=cache_dir, device=device)  # encodes, and meets every shape once
        for kept in cache_dir.rglob("fisher-*"):
            kept.unlink()
        ours = watch.time(lambda: made.update(ours=erased(config, cache_dir, device)))
        plain = watch.time(lambda: made.update(plain=plain_erasure(config, cache_dir, device)))

    # Both sides have the same mask, and models that score alike.
    apart = held("masks apart", 1 - jaccard(made["ours"][1].forget, made["plain"][1].forget), 0.02)
    scores: list[tuple[float, float]] = []
    judged = [
        watch.time(lambda side=side, images=images, distance=distance: scores.append(
            score(made[side][0], images, distance)))
        for side, images, distance in (
            ("ours", drawn, frechet_distance), ("plain", drawn, plain_frechet), ("plain", ddpm, plain_frechet))
    ]  # fmt: skip
    gate = apart | held("forget accuracy", abs(scores[0][0] - scores[1][0]), 0.05)

    work = f"digits, {METHOD}, {config.engine.steps} steps, {2 * NUM_IMAGES:,} images, once"
    case = {"benchmark": "end to end", "case": work}
    same = {"baseline": [plain + judged[1]], "ours": [ours + judged[0]]}
    own = {"baseline": [plain + judged[2]], "ours": [ours + judged[0]]}
    return [
        compared(same, "ours", **case, lane=SAME, at_least=AIMS[0], gate=gate),
        compared(own, "ours", **case, lane=FEWER, at_least=AIMS[1], gate=gate),
    ]


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


def ddpm(model: DiT, requests: list[tuple[int, int]]) -> Tensor:
    """Images by the plain loop's sampler."""
    found = []
    for first in range(0, len(requests), BATCH_SIZE):
        labels, seeds = zip(*requests[first : first + BATCH_SIZE], strict=True)
        latents = plain_ddpm(model, torch.tensor(labels), list(seeds), num_steps=NUM_PLAIN_STEPS, guidance_scale=1.0)
        found.append(model.decode(latents).cpu())
    return torch.cat(found)


def plain_frechet(left: Gaussian, right: Gaussian) -> float:
    """The distance as torchmetrics computes it."""
    return float(_compute_fid(left.mean, left.covariance, right.mean, right.covariance))
