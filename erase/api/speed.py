"""How fast a device is, for the times of plans."""

import time

import torch

from .devices import one_thread

IDLE = "if nothing else runs there"  # the speed that is measured
ROUNDS = 20
REACHED = 0.35  # share of the speed of a large product that a whole step reaches


def measured_flops(device: torch.device) -> float:
    """FLOP per second of the idle device in a step, from products of the size that a DiT block has.

    The fastest of several short ones counts: what else the machine does at the moment slows some of them, not all.
    For the same reason threads of a processor are measured one at a time. It takes a fraction of a second.
    """
    size, threads = (512, torch.get_num_threads()) if device.type == "cpu" else (4096, 1)
    factor = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device)
    with one_thread():
        seconds = min(seconds_of_product(factor) for _ in range(ROUNDS))
    return REACHED * threads * 2 * size**3 / seconds


def seconds_of_product(factor: torch.Tensor) -> float:
    """Wall time of one product of a matrix (N, N) with itself."""
    if factor.is_cuda:
        torch.cuda.synchronize(factor.device)
    started = time.perf_counter()
    factor @ factor
    if factor.is_cuda:
        torch.cuda.synchronize(factor.device)
    return time.perf_counter() - started
