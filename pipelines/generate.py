"""Bulk generation: a list of (class label, seed) pairs to uint8 images, in batches that all ranks share."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .model import DiT
from .progress import bar_of
from .ranks import from_first, in_parts
from .sampler import SamplerSettings, sample_latents

Request = tuple[int, int]  # (class label, image seed)


def generate(
    model: DiT, requests: Sequence[Request], settings: SamplerSettings, *, batch_size: int = 250, progress: str = ""
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images uint8 (B, 3, H, W), class labels (B,)) on the CPU, in request order.

    Image i is a function of (weights, class label, seed, settings) alone; every rank gets all of them. ``progress``
    titles a bar on stderr; an empty title shows none.
    """

    def draw(chunk: Sequence[Request]) -> Tensor:
        labels, seeds = zip(*chunk, strict=True)
        latents = sample_latents(model, torch.tensor(labels), seeds, settings)
        return model.decode(latents, precision=settings.decoder_precision).cpu()

    requests = from_first(requests)
    with bar_of(len(requests), progress, unit="image", shown=bool(progress)) as bar:
        for start in range(0, len(requests), batch_size):
            chunk = requests[start : start + batch_size]
            yield in_parts(draw, chunk), torch.tensor([label for label, _ in chunk])
            bar.update(len(chunk))


def generate_all(
    model: DiT, requests: Sequence[Request], settings: SamplerSettings, *, batch_size: int = 250, progress: str = ""
) -> Tensor:
    """All images of ``generate`` as one uint8 tensor (N, 3, H, W)."""
    batches = [images for images, _ in generate(model, requests, settings, batch_size=batch_size, progress=progress)]
    return torch.cat(batches) if batches else torch.empty(0, 3, model.image_size, model.image_size, dtype=torch.uint8)
