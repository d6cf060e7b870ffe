"""What the engine needs of a learning problem: batches, losses and a few readings; nothing of diffusion."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """The loss of one batch: what is minimised, and what a log shows."""

    objective: Tensor  # () with its graph: minimised; a method that ascends hands back the negated loss
    denoising: Tensor  # () detached: the plain task loss, comparable between methods and sides


class Task(Protocol):
    """A learning problem with a forget side and a retain side.

    Every batch is a pure function of (step, phase) and every loss a pure function of (weights, batch), noise included,
    so that a resumed run and an added preview see the same numbers. ``step`` counts outer steps from 0; ``phase``
    tells apart the batches of one side within an outer step.

    Where several processes share a run (``pipelines.ranks``), a batch is this rank's part of the one that a single
    process would see, and its losses are what that part contributes: over the ranks they add up to the losses of the
    whole batch, and so do their gradients. Readings, of type float, are the same on every rank.
    """

    parameters: dict[str, nn.Parameter]  # the trainable weights by plain name, all on one device

    def forget_batch(self, step: int, phase: int) -> Any:
        """Batch of the forget set."""
        ...

    def retain_batch(self, step: int, phase: int) -> Any:
        """Batch of the retain set."""
        ...

    def relearning_batch(self, step: int, phase: int, *, size: int) -> Any:
        """Batch of the forget set under its own label: what an attacker trains on."""
        ...

    def forget_loss(self, batch: Any) -> Loss:
        """The method's forget loss, mean over the whole batch."""
        ...

    def retain_loss(self, batch: Any) -> Loss:
        """The method's retain loss with its penalty, mean over the whole batch."""
        ...

    def relearning_loss(self, batch: Any) -> Tensor:
        """The attacker's loss (), to minimise."""
        ...

    def attack_starts(self, step: int, phase: int, *, count: int) -> Tensor:
        """Label rows (count, D) from which attackers of the label might begin, no part of any graph."""
        ...

    def attacked_by(self, rows: Tensor, batch: Any) -> AbstractContextManager[None]:
        """Inside, images of this batch under an erased label have one of the rows (R, D) for its own.

        Every row has its share of the batch; gradients reach the rows, and must be taken inside.
        """
        ...

    def attacked_label_loss(self, batch: Any) -> Loss:
        """The forget loss of a batch, all of it under the erased label, where the label's row is an attacker's."""
        ...

    def probe_loss(self) -> float:
        """Retain loss on one fixed batch, without gradient; the divergence guard watches it."""
        ...

    def travel(self) -> dict[str, float]:
        """Named distances from the original weights, e.g. of the erased label row; merged into each log line."""
        ...

    def score(self) -> dict[str, float]:
        """Cheap early-stop score: at least ``forget_accuracy`` and ``retain_accuracy``, both shares in [0, 1]."""
        ...
