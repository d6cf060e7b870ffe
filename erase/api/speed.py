"""How fast a device is, for the times of plans."""

import time

import torch

IDLE = "if nothing else runs there"  # the speed that is measured
ROUNDS = 20
REACHED = 0.35  # share of the speed of a large product that a whole step reaches


def measured_flops(device: torch.device) -> float:
    """FLOP per second of the idle device in a step, from products of the size that a DiT block has.

    The fastest of several short ones counts: what else the machine does at the moment slows some of them, not all. It
    takes a fraction of a second.
    """
    size = 512 if device.type == "cpu" else 4096
    factor = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return REACHED * 2 * size**3 / min(seconds_of_product(factor) for _ in range(ROUNDS))


def seconds_of_product(factor: torch.Tensor) -> float:
    """Wall time of one product of a matrix (N, N) with itself."""
    if factor.is_cuda:
        torch.cuda.synchronize(factor.device)
    started = time.perf_counter()
    factor @ factor
    if factor.is_cuda:
        torch.cuda.synchronize(factor.device)
    return time.perf_counter() - started
