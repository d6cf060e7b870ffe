"""Unrolled relearning: the forget gradient after a simulated attack (as first-order MAML, arXiv 1703.03400).

The forget phase steps along g0 + g1, where g0 is the gradient of the forget loss at the weights theta and g1 that of
the same loss on the same batch at theta', reached from theta by an attacker that trains the forget set under its own
label.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipelines.randomness import generator
from pipelines.ranks import sum_over_ranks

from .adamw import can_fuse
from .config import EngineConfig
from .optimizers import Gradients, loss_gradients
from .task import Task


def attack_length(longest: int, *, seed: int, step: int, phase: int) -> int:
    """Length of one attack, uniform on 1..``longest`` and a function of (seed, step, phase)."""
    return int(torch.randint(1, longest + 1, (), generator=generator(seed, "robust", step, phase)))


def gradients_after_relearning(
    task: Task, batch: Any, *, config: EngineConfig, seed: int, step: int, phase: int, weight: float
) -> Gradients:
    """``weight`` times g1; the weights come back bit for bit.

    It is this rank's part; the attack is that of all ranks together.
    """
    parameters = list(task.parameters.values())
    with restored(parameters):
        relearn(task, config=config, seed=seed, step=step, phase=phase)
        return loss_gradients(weight * task.forget_loss(batch).objective, parameters)


def relearn(task: Task, *, config: EngineConfig, seed: int, step: int, phase: int) -> None:
    """Move the weights as an attacker would: a few steps on the relearning loss by an optimizer without a past."""
    parameters = list(task.parameters.values())
    kind = torch.optim.Adam if config.robust_attacker == "adam" else torch.optim.SGD
    attacker = kind(parameters, lr=config.robust_learning_rate, fused=can_fuse(parameters))

    # Each attack step has a batch of its own: phases are numbered through over all attacks of an outer step.
    first = phase * config.robust_steps
    for number in range(attack_length(config.robust_steps, seed=seed, step=step, phase=phase)):
        batch = task.relearning_batch(step, first + number, size=config.forget_batch_size)
        gradients = loss_gradients(task.relearning_loss(batch), parameters)
        sum_over_ranks(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
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
