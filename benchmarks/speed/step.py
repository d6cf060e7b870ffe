"""One alternating step: batch, loss, backward, mask, clip and optimizer of both sides; and its part after backward."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from erase.diffusion_task import DiffusionTask
from erase.optimizers import PhaseStepper
from erase.update import Updater

from .baseline import PlainLoop
from .models import SIZE_OF, engine, random_dit, random_masks, random_task
from .pairs import LOWER, SAME, Row, compared, held, in_turns

BATCHES = {"cpu": (1, 4), "cuda": (1, 16, 64)}
AIMS = {("cpu", 1): (1.2, 1.8), ("cpu", 4): (0.0, 1.6)}  # at least, in the same arithmetic and in bf16
TAIL_AIM = 4.0


def measure(device: torch.device) -> list[Row]:
    """Steps at every batch size, and the tail."""
    rows = [row for batch_size in BATCHES[device.type] for row in measure_step(device, batch_size)]
    return [*rows, measure_tail(device)]


def measure_step(device: torch.device, batch_size: int) -> list[Row]:
    """A step of the product in float32 and in bf16 beside the plain loop's."""
    size = SIZE_OF[device.type]
    model = random_dit(size, device)
    tasks = {
        precision: random_task(copy.deepcopy(model), batch_size=batch_size, precision=precision)
        for precision in ("fp32", "bf16")
    }
    plain = random_task(model, batch_size=batch_size)
    masks = random_masks(plain)
    loop = PlainLoop(plain, engine(batch_size), masks)
    ours = {name: counted(ours_of(task)) for name, task in tasks.items()}

    # The first step of the two sides from equal weights.
    before = {name: each.detach().clone() for name, each in plain.parameters.items()}
    loop.run(0)
    ours["fp32"]()
    gate = held("update", update_error(before, plain, tasks["fp32"]), 1e-5)

    ours["bf16"]()
    seconds = in_turns({"baseline": counted(loop.run, first=1), **ours}, device)
    least = AIMS.get((device.type, batch_size), (0.0, 0.0))
    case = {"benchmark": "step", "case": f"{size}, batch {batch_size}"}
    return [
        compared(seconds, "fp32", **case, lane=SAME, at_least=least[0], gate=gate),
        compared(seconds, "bf16", **case, lane=LOWER, at_least=least[1]),
    ]


def ours_of(task: DiffusionTask) -> Callable[[int], object]:
    """The product's outer step."""
    stepper = PhaseStepper(task.parameters, task.engine, masks=random_masks(task))
    updater = Updater(task, stepper, task.engine, seed=0)
    return lambda step: updater.run(step, measure=False)


def counted(step: Callable[[int], object], *, first: int = 0) -> Callable[[], None]:
    """A step that counts its own number."""
    number = iter(range(first, 10**6))
    return lambda: step(next(number)) and None


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
