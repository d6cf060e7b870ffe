"""Class-conditional diffusion as a task of the engine: batches from latents, losses from the method."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipelines.embedding import label_table, looked_up
from pipelines.randomness import generator
from pipelines.ranks import from_first, sum_over_ranks

from .config import EngineConfig
from .method import Method
from .task import Loss
from .workspace import Batch, Workspace

PROBE_IMAGES = (16, 256)  # least and most of a retain batch's size in the fixed batch of the divergence guard


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
        least, most = PROBE_IMAGES
        count = min(max(self.engine.retain_batch_size, least), most, len(workspace.retain))
        indices = torch.arange(count) * len(workspace.retain) // count
        self.probe = workspace.noise(workspace.retain, indices, stream=("probe",), label_dropout=0.0).part()

    def forget_batch(self, step: int, phase: int) -> Batch:
        """Batch of the forget set as the method wants it."""
        return self.method.forget_batch(self.workspace, step, phase, self.engine.forget_batch_size).part()

    def retain_batch(self, step: int, phase: int) -> Batch:
        """Batch of the retain set with label dropout."""
        dropout, size = self.method.retain_label_dropout, self.engine.retain_batch_size
        return self.workspace.draw("retain", step, phase, batch_size=size, label_dropout=dropout).part()

    def relearning_batch(self, step: int, phase: int, *, size: int) -> Batch:
        """Batch of the forget set under its own labels, apart from those of the forget phases."""
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
    def attack_starts(self, step: int, phase: int, *, count: int) -> Tensor:
        """Each starts at the row of its class, the null row, the mean of the retained rows, or one of these.

        Row j is for erased class j, in turn.
        """
        workspace, draws = self.workspace, generator(self.workspace.seed, "attack starts", step, phase)
        table = label_table(workspace.model.transformer)
        erased = torch.tensor(workspace.forget_classes)[torch.arange(count) % len(workspace.forget_classes)]
        retained = torch.tensor(workspace.retained_classes)
        chosen = retained[torch.randint(len(retained), (count,), generator=draws)]
        null, mean = table[workspace.model.null_class], table[retained].mean(0)
        starts = torch.stack([table[erased], null.expand(count, -1), mean.expand(count, -1), table[chosen]])
        return starts[torch.randint(len(starts), (count,), generator=draws), torch.arange(count)]

    @contextmanager
    def attacked_by(self, rows: Tensor, batch: Batch) -> Iterator[None]:
        """The images of the whole batch have the rows of their class in turn."""
        num_classes = len(self.workspace.forget_classes)
        numbers = batch.before + torch.arange(len(batch.noised.class_labels))
        places = self.erased_places(batch).cpu() + num_classes * (numbers // num_classes % (len(rows) // num_classes))
        with looked_up(self.workspace.model.transformer, rows[places.to(rows.device)]):
            yield

    def attacked_label_loss(self, batch: Batch) -> Loss:
        """The method's forget loss under attacked rows."""
        erased = torch.tensor(self.workspace.forget_classes, device=self.workspace.model.device)
        relabelled = replace(batch, noised=batch.noised.relabelled(erased[self.erased_places(batch)]))
        return contribution(self.method.attacked_label_loss(self.workspace, relabelled), batch)

    def erased_places(self, batch: Batch) -> Tensor:
        """Each image's class (B,) as its place among the erased ones; those under other labels take places in turn."""
        labels = batch.noised.class_labels
        erased = torch.tensor(self.workspace.forget_classes, device=labels.device)
        matches = labels[:, None] == erased
        turns = (batch.before + torch.arange(len(labels), device=labels.device)) % len(erased)
        return torch.where(matches.any(1), matches.int().argmax(1), turns)

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
