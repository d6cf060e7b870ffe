"""Which weights a run hands back: a running average of them, and the best of the early-stop checks."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .unroll import restored


class WeightAverage:
    """Average of the weights after each outer step, the weight of a step halving every ``half_life`` outer steps.

    After t steps it is sum_i d^(t-i) theta_i / sum_i d^(t-i) over i = 1..t, d = 2^(-1/half_life): the original weights
    theta_0 have no share in it, so that a short run does not hand most of the original model back.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], *, half_life: float) -> None:
        self.parameters = parameters
        self.half_life = half_life
        self.tensors = {name: each.detach().float().clone() for name, each in parameters.items()}

    def update(self, step: int) -> None:
        """Take in the weights after outer step ``step``, counted from 1."""
        rate = math.log(2) / self.half_life
        share = math.expm1(-rate) / math.expm1(-rate * step)
        weights = [each.detach().float() for each in self.parameters.values()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, share)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters hold the average inside, and their own bits again afterwards."""
        with restored(list(self.parameters.values())):
            copy_weights(self.tensors, self.parameters)
            yield


class EarlyStop:
    """Keeps the weights of the best check and says when to stop.

    A check whose forget accuracy is at or under the target beats one that is not; of two under it the one with the
    higher retain accuracy is better, of two above it the one with the lower forget accuracy. The run stops at the first
    check under the target that does not beat an earlier one under it: retain accuracy usually still recovers just after
    the target is met, and stopping at once would give that away.
    """

    def __init__(self, *, target: float) -> None:
        self.target = target
        self.checks: list[dict[str, Any]] = []  # step and scores of every check
        self.best: dict[str, Any] | None = None  # the best of them
        self.weights: dict[str, Tensor] = {}  # its weights, on the CPU
        self.stopped = False

    def check(self, step: int, scores: dict[str, float], parameters: dict[str, nn.Parameter]) -> None:
        """Take in the scores of the weights that ``parameters`` hold."""
        found = {"step": step, **scores}
        self.checks.append(found)
        if self.best is None or self.rank(found) < self.rank(self.best):
            self.best = found
            self.weights = copy_to_cpu(parameters)
        else:
            self.stopped = max(found["forget_accuracy"], self.best["forget_accuracy"]) <= self.target

    def rank(self, scores: dict[str, float]) -> tuple[float, float]:
        """Order of checks, the best first."""
        return max(scores["forget_accuracy"], self.target), -scores["retain_accuracy"]


def copy_to_cpu(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies of the weights in host memory."""
    return {name: each.detach().to("cpu", copy=True) for name, each in parameters.items()}


def copy_weights(source: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    """Overwrite the parameters with the tensors of the same names."""
    with torch.no_grad():
        for name, each in parameters.items():
            each.copy_(source[name])
