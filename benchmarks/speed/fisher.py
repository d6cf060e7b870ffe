"""The Fisher diagonal of some images: whole batches on the device against one image at a time."""

import torch
from torch import Tensor

from erase.evidence import cached_fisher, evidence_batch
from erase.saliency import Mask, ratio_mask

from .baseline import plain_fisher
from .models import SIZE_OF, random_dit, random_task
from .pairs import LOWER, SAME, Row, compared, held, in_turns

NUM_IMAGES = {"cpu": 8, "cuda": 64}
AIMS = (1.05, 1.5)
OVERLAP = 0.98  # Jaccard index of the masks in float32 and bf16


def measure(device: torch.device) -> list[Row]:
    """Float32 and bf16 beside the plain loop, and the overlap of the masks that the two give."""
    size, num_images = SIZE_OF[device.type], NUM_IMAGES[device.type]
    task = random_task(random_dit(size, device), batch_size=1)
    workspace = task.workspace
    image = evidence_batch(workspace, workspace.forget, "forget", batch_size=1)
    singles = [image(number) for number in range(num_images)]

    def ours(precision: str, side: str = "forget") -> dict[str, Tensor]:
        workspace.precision = precision
        latents = workspace.forget if side == "forget" else workspace.retain
        return cached_fisher(workspace, latents, side, num_samples=num_images, cache_dir=None)

    gate = held("Fisher", distance(ours("fp32"), plain_fisher(task, singles)), 1e-6)
    masks = [ratio_mask(ours(each), ours(each, "retain"), threshold=1.0) for each in ("fp32", "bf16")]
    overlap = held("masks apart", 1 - jaccard(*masks), 1 - OVERLAP)
    works = {
        "baseline": lambda: plain_fisher(task, singles),
        "fp32": lambda: ours("fp32"),
        "bf16": lambda: ours("bf16"),
    }
    seconds = in_turns(works, device)
    case = {"benchmark": "Fisher", "case": f"{size}, {num_images} images"}
    return [
        compared(seconds, "fp32", **case, lane=SAME, at_least=AIMS[0], gate=gate),
        compared(seconds, "bf16", **case, lane=LOWER, at_least=AIMS[1], gate=overlap),
    ]


def distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Relative distance of two diagonals over all weights."""
    pairs = [(left[name].cpu().double(), right[name].double()) for name in right]
    return float((sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)).sqrt())


def jaccard(left: Mask, right: Mask) -> float:
    """Weights in both masks over weights in either."""
    both = sum(int((left[name] & right[name]).sum()) for name in left)
    return both / sum(int((left[name] | right[name]).sum()) for name in left)
