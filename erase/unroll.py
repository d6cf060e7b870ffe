"""Unrolled relearning: the forget gradient before and after a simulated attack (as first-order MAML, arXiv 1703.03400).

The forget phase steps along g0 + g1, where g0 is the gradient of the forget loss at the weights theta and g1 that of
the same loss on the same batch at theta', reached from theta by an attacker that trains the forget set under its own
label. The attacker trains all weights, or nothing but the weights of the label itself from anywhere it likes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.randomness import generator
from pipelines.ranks import sum_over_ranks

from .adamw import can_fuse
from .config import EngineConfig
from .optimizers import Gradients, loss_gradients
from .task import Loss, Task


def attack_length(longest: int, *, seed: int, step: int, phase: int) -> int:
    """Length of one attack, uniform on 1..``longest`` and a function of (seed, step, phase)."""
    return int(torch.randint(1, longest + 1, (), generator=generator(seed, "robust", step, phase)))


def unrolled_gradients(
    task: Task, batch: Any, *, config: EngineConfig, seed: int, step: int, phase: int, weight: float
) -> tuple[Loss, Gradients]:
    """The forget loss at the current weights, and ``weight`` (g0 + g1); the weights come back bit for bit.

    Both are this rank's part; the attack is that of all ranks together.
    """
    parameters = list(task.parameters.values())
    loss = task.forget_loss(batch)
    total = loss_gradients(weight * loss.objective, parameters)

    attack = attack_on_label if attacks_label(config, step) else attack_on_weights
    with restored(parameters):
        after = attack(task, batch, config=config, seed=seed, step=step, phase=phase, weight=weight)
    torch._foreach_add_(total, after)
    return loss, total


def attacks_label(config: EngineConfig, step: int) -> bool:
    """Whether the attack of an outer step is one on the label row."""
    number = step // config.robust_every
    return config.robust_target == "label" or (config.robust_target == "both" and number % 2 == 1)


def attack_on_weights(
    task: Task, batch: Any, *, config: EngineConfig, seed: int, step: int, phase: int, weight: float
) -> Gradients:
    """Train all weights on the class, as fine-tuning does; the forget gradient there."""
    parameters = list(task.parameters.values())
    simulate_attack(task, parameters, None, config=config, seed=seed, step=step, phase=phase)
    return loss_gradients(weight * task.forget_loss(batch).objective, parameters)


def attack_on_label(
    task: Task, batch: Any, *, config: EngineConfig, seed: int, step: int, phase: int, weight: float
) -> Gradients:
    """Train the label's own weights alone, as an inversion does; the gradient there of all weights but those."""
    parameters, entries = list(task.parameters.values()), task.begin_label_attack(step, phase)
    attacked, masks = [task.parameters[name] for name in entries], list(entries.values())
    simulate_attack(task, attacked, masks, config=config, seed=seed, step=step, phase=phase)
    gradients = loss_gradients(weight * task.attacked_label_loss(batch).objective, parameters)
    for name, gradient in zip(task.parameters, gradients, strict=True):
        if name in entries:
            gradient.masked_fill_(entries[name], 0)
    return gradients


def simulate_attack(
    task: Task,
    attacked: Sequence[nn.Parameter],
    masks: Sequence[Tensor] | None,
    *,
    config: EngineConfig,
    seed: int,
    step: int,
    phase: int,
) -> None:
    """Move some weights as an attacker would: a few steps on the relearning loss by an optimizer without a past.

    Of parameters with a mask only the entries inside it move.
    """
    kind = torch.optim.Adam if config.robust_attacker == "adam" else torch.optim.SGD
    rate = config.robust_learning_rate if masks is None else config.robust_label_rate
    attacker = kind(attacked, lr=rate, fused=can_fuse(attacked))

    # Each attack step has a batch of its own: phases are numbered through over all attacks of an outer step.
    first = phase * config.robust_steps
    for number in range(attack_length(config.robust_steps, seed=seed, step=step, phase=phase)):
        loss = task.relearning_loss(task.relearning_batch(step, first + number))
        gradients = loss_gradients(loss, attacked)
        sum_over_ranks(gradients)
        for place, (parameter, gradient) in enumerate(zip(attacked, gradients, strict=True)):
            parameter.grad = gradient if masks is None else gradient * masks[place]
        attacker.step()
    attacker.zero_grad()


@contextmanager
def restored(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Whatever happens to the weights inside, they are the same bits afterwards."""
    before = [each.detach().clone() for each in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), before)
