"""Counter-based random streams: every draw is a function of a seed, a stream name and an index.

Nothing draws from a global generator and no generator has a state worth saving, so an added preview, another batch
size or a resumed run cannot shift the draws of anything else.
"""

import hashlib

import torch


def stream_seed(seed: int, *path: str | int) -> int:
    """A seed that depends on ``seed`` and on every element of ``path`` (torch takes its low 32 bits)."""
    digest = hashlib.sha256("/".join(str(part) for part in (seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator for one named draw, e.g. ``generator(seed, "forget noise", step)``."""
    return torch.Generator().manual_seed(stream_seed(seed, *path))


def epoch_indices(num_items: int, batch_size: int, step: int, *, seed: int, stream: str) -> torch.Tensor:
    """Indices (batch_size,) of batch number ``step`` of an endless shuffled pass over ``num_items`` items.

    Every item appears once per epoch; a batch may straddle two epochs.
    """
    first, last = step * batch_size, (step + 1) * batch_size
    parts = []
    for epoch in range(first // num_items, (last - 1) // num_items + 1):
        order = torch.randperm(num_items, generator=generator(seed, stream, "epoch", epoch))
        start = epoch * num_items
        parts.append(order[max(first - start, 0) : min(last - start, num_items)])
    return torch.cat(parts)
