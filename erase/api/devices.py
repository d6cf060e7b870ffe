"""Which device a command runs on, and how many processes can share a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipelines.errors import UsageError
from pipelines.launcher import local_rank, num_launched
from pipelines.ranks import num_ranks

from ..config import EngineConfig
from ..fields import flag


def pick_device(device: str) -> torch.device:
    """``auto`` takes a GPU when there is one (``UsageError`` for a device that is not there).

    Of several processes each takes the GPU of its number on its machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if num_launched() > 1 and device.startswith("cuda"):
        if device != "cuda":
            raise UsageError(f"--device {device} is one GPU for {num_launched()} processes: give cuda, cpu or auto")
        device = f"cuda:{local_rank()}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device} is not available: {str(error).splitlines()[0]}") from error
    found = torch.device(device)
    if num_launched() > 1 and found.type == "cuda":
        torch.cuda.set_device(found)
    return found


def check_ranks(engine: EngineConfig) -> None:
    """Refuse batches that leave a rank without an image (``UsageError``)."""
    for name in ("forget_batch_size", "retain_batch_size"):
        if getattr(engine, name) < num_ranks():
            raise UsageError(
                f"{flag(name)} {getattr(engine, name)} must be at least the number of processes, {num_ranks()}"
            )
    if engine.robust and engine.robust_target != "weights" and engine.label_attack_size < num_ranks():
        raise UsageError(
            f"--robust-label-rows {engine.robust_label_rows} times --robust-label-images {engine.robust_label_images} "
            f"must be at least the number of processes, {num_ranks()}"
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, tensors on one thread: sums have one order, and the other cores are left to others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
