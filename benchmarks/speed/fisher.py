"""The Fisher diagonal of some images: whole batches on the device against one image at a time."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from erase.evidence import cached_fisher, evidence_batch
from erase.saliency import Mask, ratio_mask

from .baseline import plain_fisher
from .models import SIZE_OF, random_dit, random_task
from .pairs import LOWER, SAME, Row, compared, held, in_processes

NUM_IMAGES = {"cpu": 8, "cuda": 64}
AIMS = (1.05, 1.5)
OVERLAP = 0.98  # Jaccard index of the masks in float32 and bf16


def measure(device: torch.device) -> list[Row]:
    """Float32 and bf16 beside the plain loop, each in a process of its own, and the overlap of their masks."""
    size, num_images = SIZE_OF[device.type], NUM_IMAGES[device.type]
    forget = {each: product_work(device, each)() for each in ("fp32", "bf16")}
    gate = held("Fisher", distance(forget["fp32"], plain_work(device)()), 1e-6)
    masks = [ratio_mask(found, product_work(device, each, "retain")(), threshold=1.0) for each, found in forget.items()]
    overlap = held("masks apart", 1 - jaccard(*masks), 1 - OVERLAP)
    ours = {name: partial(product_work, device, name) for name in ("fp32", "bf16")}
    seconds = in_processes({"baseline": partial(plain_work, device), **ours}, device)
    case = {"benchmark": "Fisher", "case": f"{size}, {num_images} images"}
    return [
        compared(seconds, "fp32", **case, lane=SAME, at_least=AIMS[0], gate=gate),
        compared(seconds, "bf16", **case, lane=LOWER, at_least=AIMS[1], gate=overlap),
    ]


def plain_work(device: torch.device) -> Callable[[], dict[str, Tensor]]:
    """The plain loop over the images of the class."""
    task = random_task(random_dit(SIZE_OF[device.type], device), batch_size=1)
    image = evidence_batch(task.workspace, task.workspace.forget, "forget", batch_size=1)
    singles = [image(number) for number in range(NUM_IMAGES[device.type])]
    return lambda: plain_fisher(task, singles)


def product_work(device: torch.device, precision: str, side: str = "forget") -> Callable[[], dict[str, Tensor]]:
    """The product over as many images of a side, in that precision."""
    model = random_dit(SIZE_OF[device.type], device)
    workspace = random_task(model, batch_size=1, precision=precision).workspace
    latents = workspace.forget if side == "forget" else workspace.retain
    return lambda: cached_fisher(workspace, latents, side, num_samples=NUM_IMAGES[device.type], cache_dir=None)


def distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Relative distance of two diagonals over all weights."""
    pairs = [(left[name].cpu().double(), right[name].double()) for name in right]
    return float((sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)).sqrt())


def jaccard(left: Mask, right: Mask) -> float:
    """Weights in both masks over weights in either."""
    both = sum(int((left[name] & right[name]).sum()) for name in left)
    return both / sum(int((left[name] | right[name]).sum()) for name in left)
