"""What a launcher (``torchrun``, ``accelerate launch``) says to each process that it starts, read without PyTorch."""

import os

from .errors import UsageError


def num_launched() -> int:
    """How many processes were started together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def check_launch() -> None:
    """Refuse a launch that asked for several processes and started one (``UsageError``)."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if on_cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "accelerate launch --cpu starts one process, whatever --num_processes says: use "
            "`torchrun --nproc-per-node N -m erase run ... --device cpu`"
        )
