"""One alternating step: batch, loss, backward, mask, clip and optimizer of both sides; and its part after backward."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from erase.diffusion_task import DiffusionTask
from erase.optimizers import PhaseStepper
from erase.update import Updater

from .baseline import PlainLoop
from .models import SIZE_OF, random_dit, random_masks, random_task
from .pairs import LOWER, SAME, Row, compared, held, in_processes, in_turns

BATCHES = {"cpu": (1, 4), "cuda": (1, 16, 64)}
AIMS = {("cpu", 1): (1.2, 1.8), ("cpu", 4): (0.0, 1.6)}  # at least, in the same arithmetic and in bf16
TAIL_AIM = 4.0


def measure(device: torch.device) -> list[Row]:
    """Steps at every batch size, and the tail."""
    rows = [row for batch_size in BATCHES[device.type] for row in measure_step(device, batch_size)]
    return [*rows, measure_tail(device)]


def measure_step(device: torch.device, batch_size: int) -> list[Row]:
    """A step of the product in float32 and in bf16 beside the plain loop's, each in a process of its own."""
    gate = held("update", first_updates_apart(device, batch_size), 1e-5)
    ours = {name: partial(product_step, device, batch_size, name) for name in ("fp32", "bf16")}
    seconds = in_processes({"baseline": partial(plain_step, device, batch_size), **ours}, device)
    least = AIMS.get((device.type, batch_size), (0.0, 0.0))
    case = {"benchmark": "step", "case": f"{SIZE_OF[device.type]}, batch {batch_size}"}
    return [
        compared(seconds, "fp32", **case, lane=SAME, at_least=least[0], gate=gate),
        compared(seconds, "bf16", **case, lane=LOWER, at_least=least[1]),
    ]


def first_updates_apart(device: torch.device, batch_size: int) -> float:
    """Relative distance of what the first step of either side does to equal weights."""
    plain, task = task_of(device, batch_size), task_of(device, batch_size)
    before = {name: each.detach().clone() for name, each in plain.parameters.items()}
    PlainLoop(plain, plain.engine, random_masks(plain)).run(0)
    ours_of(task)(0)
    return update_error(before, plain, task)


def task_of(device: torch.device, batch_size: int, precision: str = "fp32") -> DiffusionTask:
    """The random model of the device's size, to be erased from."""
    return random_task(random_dit(SIZE_OF[device.type], device), batch_size=batch_size, precision=precision)


def plain_step(device: torch.device, batch_size: int) -> Callable[[], object]:
    """The plain loop's outer step."""
    task = task_of(device, batch_size)
    return counted(PlainLoop(task, task.engine, random_masks(task)).run)


def product_step(device: torch.device, batch_size: int, precision: str) -> Callable[[], object]:
    """The product's outer step, in that precision."""
    return counted(ours_of(task_of(device, batch_size, precision)))


def ours_of(task: DiffusionTask) -> Callable[[int], object]:
    """The product's outer step by its number."""
    stepper = PhaseStepper(task.parameters, task.engine, masks=random_masks(task))
    updater = Updater(task, stepper, task.engine, seed=0)
    return lambda step: updater.run(step, measure=False)


def counted(step: Callable[[int], object]) -> Callable[[], object]:
    """A step that counts its own number."""
    number = itertools.count()
    return lambda: step(next(number))


def update_error(before: Mapping[str, Tensor], left: DiffusionTask, right: DiffusionTask) -> float:
    """Relative distance of two updates from the same weights.

    Attention does not feel a bias of the keys: its gradient is rounding, and so is what AdamW makes of it.
    """
    names = [name for name in before if not name.endswith("to_k.bias")]
    moved = [[(task.parameters[name] - before[name]).detach().double() for name in names] for task in (left, right)]
    apart = sum((a - b).square().sum() for a, b in zip(*moved, strict=True))
    return float((apart / sum(a.square().sum() for a in moved[0])).sqrt())


def measure_tail(device: torch.device) -> Row:
    """Mask, clip, optimizer and average of the forget side, on given gradients."""
    size = SIZE_OF[device.type]
    plain, task = (random_task(random_dit(size, device), batch_size=1) for _ in range(2))
    loop = PlainLoop(plain, plain.engine, random_masks(plain))
    stepper = PhaseStepper(task.parameters, task.engine, masks=random_masks(task))
    draws = torch.Generator().manual_seed(3)
    given = [torch.randn(each.shape, generator=draws).to(device) * 1e-3 for each in task.parameters.values()]
    gradients = [torch.empty_like(each) for each in task.parameters.values()]

    def refill() -> None:
        torch._foreach_copy_(gradients, given)
        for parameter, gradient in zip(plain.parameters.values(), given, strict=True):
            parameter.grad = gradient.clone()

    def ours() -> None:
        stepper.condition("forget", gradients)
        stepper.step("forget", gradients, step=0, measure=False)

    # The first step of the two sides from equal weights.
    before = {name: each.detach().clone() for name, each in plain.parameters.items()}
    refill()
    loop.tail("forget")
    ours()
    gate = held("update", update_error(before, plain, task), 1e-5)
    seconds = in_turns({"baseline": lambda: loop.tail("forget"), "ours": ours}, device, before=refill)
    return compared(seconds, "ours", benchmark="tail", case=size, lane=SAME, at_least=TAIL_AIM, gate=gate)
