"""Attackers of the label: a population of rows, each trained to draw the erased class while the network forgets it.

An inversion of a label row takes hundreds of steps, far more than a forget phase can unroll. So the attackers live on:
each keeps its row and its moments from one phase to the next, takes a few steps in each, and begins anew at the end of
a random life, so that young and old ones are defended against at once (the replay of arXiv 1903.08689, the free steps
of arXiv 1904.12843).
"""

from typing import Any

import torch

from pipelines.randomness import generator
from pipelines.ranks import sum_over_ranks

from .config import EngineConfig
from .optimizers import Gradients, loss_gradients
from .task import Task

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam (arXiv 1412.6980)


class LabelAttackers:
    """R attackers with a row (R, D) each; on several ranks all hold the same."""

    def __init__(self, task: Task, config: EngineConfig, *, seed: int) -> None:
        self.task = task
        self.config = config
        self.seed = seed
        rows = task.attack_starts(0, 0, count=config.robust_label_rows)
        column = rows.new_zeros(len(rows), 1)
        self.tensors = {
            "rows": rows.clone(),
            "first moments": torch.zeros_like(rows),
            "second moments": torch.zeros_like(rows),
            "age": column.clone(),  # steps taken
            "life": column.clone(),  # steps to take
        }

    def gradients(self, batch: Any, *, step: int, phase: int, weight: float) -> Gradients:
        """Let the attackers go on, then ``weight`` times the gradient of the forget loss under their rows."""
        self.renew(step, phase)
        steps, size = self.config.robust_label_steps, self.config.label_attack_size
        for number in range(phase * steps, (phase + 1) * steps):
            self.advance(self.task.relearning_batch(step, number, size=size))
        with self.task.attacked_by(self.tensors["rows"], batch):
            objective = weight * self.task.attacked_label_loss(batch).objective
            return loss_gradients(objective, list(self.task.parameters.values()))

    def renew(self, step: int, phase: int) -> None:
        """Let those whose life is over begin anew."""
        mine, draws = self.tensors, generator(self.seed, "label attackers", step, phase)
        starts = self.task.attack_starts(step, phase, count=len(mine["rows"]))
        lives = torch.randint(1, self.config.robust_label_life + 1, mine["life"].shape, generator=draws).to(starts)
        ended = mine["age"] >= mine["life"]
        fresh = {"rows": starts, "life": lives}
        for name, tensor in mine.items():
            mine[name] = torch.where(ended, fresh.get(name, torch.zeros_like(tensor)), tensor)

    def advance(self, batch: Any) -> None:
        """One Adam step of every attacker on its images of the batch."""
        mine = self.tensors
        rows = mine["rows"].clone().requires_grad_(True)
        with self.task.attacked_by(rows, batch):
            (gradient,) = torch.autograd.grad(self.task.relearning_loss(batch), [rows])
        sum_over_ranks([gradient])

        mine["age"] = mine["age"] + 1
        mine["first moments"] = torch.lerp(gradient, mine["first moments"], BETAS[0])
        mine["second moments"] = torch.lerp(gradient.square(), mine["second moments"], BETAS[1])
        mean, square = (
            mine[name] / (1 - beta ** mine["age"])
            for name, beta in zip(("first moments", "second moments"), BETAS, strict=True)
        )
        mine["rows"] = mine["rows"] - self.config.robust_label_rate * mean / (square.sqrt() + EPSILON)
