"""Class-conditional diffusion as a task of the engine: batches from latents, losses from the method."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipelines.embedding import label_table, label_table_name
from pipelines.randomness import generator
from pipelines.ranks import from_first, sum_over_ranks

from .config import EngineConfig
from .method import Method
from .task import Loss
from .workspace import Batch, Workspace

PROBE_IMAGES = 256  # retained images, spread over all, in the fixed batch that the divergence guard watches


@dataclass(kw_only=True)
class DiffusionTask:
    """Erasing classes of one DiT with one method; see ``erase.task.Task``."""

    workspace: Workspace
    method: Method
    engine: EngineConfig
    scorer: Callable[[], dict[str, float]] | None = None  # cheap early-stop score of the current weights

    def __post_init__(self) -> None:
        workspace = self.workspace
        self.parameters: dict[str, nn.Parameter] = dict(workspace.model.transformer.named_parameters())
        count = min(PROBE_IMAGES, len(workspace.retain))
        indices = torch.arange(count) * len(workspace.retain) // count
        self.probe = workspace.noise(workspace.retain, indices, stream=("probe",), label_dropout=0.0).part()

    def forget_batch(self, step: int, phase: int) -> Batch:
        """Batch of the forget set as the method wants it."""
        return self.method.forget_batch(self.workspace, step, phase, self.engine.forget_batch_size).part()

    def retain_batch(self, step: int, phase: int) -> Batch:
        """Batch of the retain set with label dropout."""
        dropout, size = self.method.retain_label_dropout, self.engine.retain_batch_size
        return self.workspace.draw("retain", step, phase, batch_size=size, label_dropout=dropout).part()

    def relearning_batch(self, step: int, phase: int) -> Batch:
        """Batch of the forget set under its own labels, apart from those of the forget phases."""
        size = self.engine.forget_batch_size
        return self.workspace.draw("forget", step, 1000 + phase, batch_size=size, label_dropout=0.0).part()

    def forget_loss(self, batch: Batch) -> Loss:
        """The method's forget loss."""
        return contribution(self.method.forget_loss(self.workspace, batch), batch)

    def retain_loss(self, batch: Batch) -> Loss:
        """The method's retain loss."""
        return contribution(self.method.retain_loss(self.workspace, batch), batch)

    def relearning_loss(self, batch: Batch) -> Tensor:
        """The denoising loss that an attacker would minimise."""
        return batch.share * self.workspace.denoising(batch.noised).denoising.mean()

    @torch.no_grad()
    def begin_label_attack(self, step: int, phase: int) -> dict[str, Tensor]:
        """Each erased row starts as itself, the null row, the mean of the retained rows, or one of them."""
        workspace, name = self.workspace, label_table_name(self.workspace.model.transformer)
        table, draws = self.parameters[name], generator(workspace.seed, "label attack", step, phase)
        retained = torch.tensor(workspace.retained_classes, device=table.device)
        mask = torch.zeros_like(table, dtype=torch.bool)
        for label in workspace.forget_classes:
            one = retained[int(torch.randint(len(retained), (), generator=draws))]
            starts = (table[label], table[workspace.model.null_class], table[retained].mean(0), table[one])
            table[label] = starts[int(torch.randint(len(starts), (), generator=draws))].clone()
            mask[label] = True
        return {name: mask}

    def attacked_label_loss(self, batch: Batch) -> Loss:
        """The method's forget loss under an attacked row."""
        return contribution(self.method.attacked_label_loss(self.workspace, batch), batch)

    @torch.no_grad()
    def probe_loss(self) -> float:
        """L_simple on the fixed batch of retained images."""
        loss = self.probe.share * self.workspace.denoising(self.probe.noised).simple.mean()
        sum_over_ranks([loss])
        return loss.item()

    @torch.no_grad()
    def travel(self) -> dict[str, float]:
        """How far the erased rows (on average) and the null row of the label table have moved."""
        moved = (label_table(self.workspace.model.transformer) - self.workspace.original_rows).norm(dim=1)
        erased = moved[list(self.workspace.forget_classes)].mean().item()
        return {"erased_row_travel": erased, "null_row_travel": moved[self.workspace.model.null_class].item()}

    def score(self) -> dict[str, float]:
        """Early-stop score; a run without a classifier has none."""
        if self.scorer is None:
            raise ValueError("an early stop needs a classifier to score with")
        return from_first(self.scorer())


def contribution(loss: Loss, batch: Batch) -> Loss:
    """What the mean loss of a part adds to that of the whole batch."""
    return Loss(batch.share * loss.objective, batch.share * loss.denoising)
