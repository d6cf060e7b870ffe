"""How time grows: steps with batch, erased classes and depth, sampling with images, merging with shards.

Each is a line through its points; what is left per unit must not rise.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from eval.moments import Moments
from pipelines.sampler import SamplerSettings, sample_latents

from .models import random_dit, random_task
from .pairs import in_turns
from .step import counted, ours_of

SIZE = "DiT-S/2"
NUM_LAYERS = 3  # of the shallow model that everything but depth is measured on
STEEPEST = 1.1  # exponent of the number, beyond which growth is not linear
NUM_FEATURES = 512


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Seconds by size of the work."""

    what: str  # one unit of work
    by: str  # what is varied
    sizes: list[int]
    seconds: list[float]  # median of the rounds

    @property
    def exponent(self) -> float:
        """Slope between the two largest sizes on logarithmic axes: 1 is linear, less is better."""
        (small, large), (short, long) = self.sizes[-2:], self.seconds[-2:]
        return math.log(long / short) / math.log(large / small)


def measure(device: torch.device) -> list[Growth]:
    """All curves."""
    shallow = random_dit(SIZE, device, num_layers=NUM_LAYERS)
    labels = torch.arange(16)
    settings = SamplerSettings(sampler="ddim", num_inference_steps=5)

    def deep(num_layers: int) -> Callable[[], None]:
        return stepping(random_dit(SIZE, device, num_layers=num_layers), 1)

    def sampling(num_images: int) -> Callable[[], Any]:
        return lambda: sample_latents(shallow, labels[:num_images], list(range(num_images)), settings)

    return [
        growth("step", "batch size", (1, 2, 4, 8), lambda size: stepping(shallow, size), device),
        growth("step of batch 4", "erased classes", (1, 4, 16, 64), lambda size: stepping(shallow, 4, size), device),
        growth("step of batch 1", "blocks", (3, 6, 12), deep, device),
        growth("sampling", "images", (2, 4, 8, 16), sampling, device),
        growth("merging", "shards", (8, 32, 128), merging, torch.device("cpu")),
    ]


def growth(
    what: str, by: str, sizes: tuple[int, ...], work_of: Callable[[int], Callable[[], Any]], device: torch.device
) -> Growth:
    """One curve."""
    seconds = in_turns({str(size): work_of(size) for size in sizes}, device)
    return Growth(what=what, by=by, sizes=list(sizes), seconds=[statistics.median(each) for each in seconds.values()])


def stepping(model: Any, batch_size: int, num_forget: int = 1) -> Callable[[], None]:
    """An outer step of the product."""
    return counted(ours_of(random_task(model, batch_size=batch_size, num_forget=num_forget)))


def merging(num_shards: int) -> Callable[[], Moments]:
    """The sums of so many shards into one."""
    features = torch.randn(16, NUM_FEATURES, generator=torch.Generator().manual_seed(0))
    shards = [Moments(NUM_FEATURES).update(features) for _ in range(num_shards)]

    def merged() -> Moments:
        total = Moments(NUM_FEATURES)
        for shard in shards:
            total.merge(shard)
        return total

    return merged


def draw(curves: list[dict[str, Any]], path: Path) -> None:
    """Seconds against size on logarithmic axes, with a linear line through the first point."""
    figure, axes = plt.subplots(1, len(curves), figsize=(3 * len(curves), 2.8), layout="constrained")
    for axis, curve in zip(axes, curves, strict=True):
        sizes, seconds = curve["sizes"], curve["seconds"]
        axis.loglog(sizes, seconds, "o-", color="#2563eb")
        axis.loglog(sizes, [seconds[0] * size / sizes[0] for size in sizes], ":", color="#9ca3af")
        axis.set(xlabel=curve["by"], title=f"{curve['what']}: exponent {curve['exponent']:.2f}")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def as_record(curve: Growth) -> dict[str, Any]:
    """Plain JSON types."""
    return {**asdict(curve), "exponent": curve.exponent}
