"""What the engine takes beside forward, backward and optimizer, and the sampler beside the network: shares of a run."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from erase import update
from erase.loop import run_loop
from erase.optimizers import PhaseStepper

from . import sampling
from .models import SIZE_OF, engine, random_dit, random_masks, random_task

AT_MOST = {"engine": 0.03, "sampler": 0.01}  # the guard's passes are forward passes, and stand by themselves
NUM_STEPS = 10
BATCH_SIZE = 4


def measure(device: torch.device) -> dict[str, float]:
    """Shares by part."""
    return {**engine_shares(device), "sampler": sampling.overhead(device)}


def engine_shares(device: torch.device) -> dict[str, float]:
    """Shares of the loop's time outside every network pass and optimizer step, and in the forward passes of the guard.

    The guard watches a fixed retain batch, before the first step and at every log line.
    """
    task = random_task(random_dit(SIZE_OF[device.type], device), batch_size=BATCH_SIZE)
    spent: list[float] = []
    guard: list[float] = []
    task.probe_loss = timed(task.probe_loss, guard)
    task.forget_loss, task.retain_loss = timed(task.forget_loss, spent), timed(task.retain_loss, spent)
    task.workspace.denoising(task.probe.noised)  # a first pass is slower
    with timed_in(update, "loss_gradients", spent), timed_in(PhaseStepper, "condition", spent), \
            timed_in(PhaseStepper, "step", spent):  # fmt: skip
        started = time.perf_counter()
        run_loop(
            task, engine(BATCH_SIZE, steps=NUM_STEPS), seed=0, masks=random_masks(task), checkpoint_path=None,
            config_hash="", log=lambda line: None, preview=None, progress=False,
        )  # fmt: skip
        total = time.perf_counter() - started
    return {"engine": 1 - (sum(spent) + sum(guard)) / total, "guard": sum(guard) / total}


@contextlib.contextmanager
def timed_in(owner: Any, name: str, spent: list[float]) -> Iterator[None]:
    """Inside, a function of a module or class adds the seconds of each call to ``spent``."""
    plain = getattr(owner, name)
    setattr(owner, name, timed(plain, spent))
    try:
        yield
    finally:
        setattr(owner, name, plain)


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The function, which adds its seconds to ``spent``."""

    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        found = function(*arguments, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - started)
        return found

    return call
