"""How fast a device is, and what the work of a plan takes there."""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from pipelines.launcher import num_launched

from ..config import ErasureConfig
from ..evidence import samples_at_once
from ..method import Method
from .devices import one_thread

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

IDLE = "if nothing else runs there"  # the speed that is measured
ROUNDS = 20
BLOCK_SECONDS = 1e-3  # of calling the operators of a block once, whatever they compute
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


def phase_seconds(flops: Mapping[str, float], speed: float, *, fishers: float) -> dict[str, float]:
    """Seconds by phase at a speed in FLOP per second; preparation takes no less than its Fisher diagonals."""
    seconds = {name: value / speed / num_launched() for name, value in flops.items()}
    return seconds | {"preparation": max(seconds["preparation"], fishers)}


def least_fisher_seconds(
    config: ErasureConfig, method: Method, transformer: "DiTTransformer2DModel", device: torch.device
) -> float:
    """Seconds that Fisher diagonals take however small the network and the pass."""
    at_once = samples_at_once(transformer, device, checkpointing=config.gradient_checkpointing)
    passes = len(method.needs & {"forget_fisher", "data_fisher"}) * math.ceil(config.fisher_samples / at_once)
    return 3 * passes * transformer.config.num_layers * BLOCK_SECONDS / num_launched()
