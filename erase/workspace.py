"""What an erasure method works with: the model, its data and whatever the method declared that it needs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipelines.diffusion import DenoisingLoss, Noised, denoising_loss, draw_noise, drop_labels
from pipelines.embedding import label_table
from pipelines.latents import Latents
from pipelines.model import DiT
from pipelines.posterior import Posterior
from pipelines.randomness import epoch_indices, generator, stream_seed
from pipelines.ranks import part_of

from .saliency import Fisher


@dataclass(frozen=True)
class Batch:
    """Noised latents and the seed of any further draw that belongs to this batch.

    On one of several ranks it is a part of the batch; further draws are made for the whole of it, so that they do not
    depend on how it was cut.
    """

    noised: Noised
    seed: int
    before: int = 0  # images of the whole batch that lower ranks have
    after: int = 0  # and higher ones

    def generator(self, stream: str) -> torch.Generator:
        """A fresh generator: asked twice, it gives the same draws."""
        return generator(self.seed, stream)

    @property
    def total(self) -> int:
        """Images in the whole batch."""
        return self.before + len(self.noised.class_labels) + self.after

    @property
    def share(self) -> float:
        """The share of the whole batch that is here, the weight of a mean over these images."""
        return len(self.noised.class_labels) / self.total

    def rows_of(self, draws: Tensor) -> Tensor:
        """Those of the draws (total, ...) for the whole batch that belong to the images here."""
        return draws[self.before : self.total - self.after]

    def part(self) -> "Batch":
        """This rank's part of a whole batch."""
        mine = part_of(self.total)
        cut = Noised(*(tensor[mine] for tensor in vars(self.noised).values()))
        return Batch(cut, self.seed, before=mine.start, after=self.total - mine.stop)


@dataclass(kw_only=True)
class Workspace:
    """One erasure in progress; optional parts are there when the method's ``needs`` name them."""

    model: DiT  # being erased
    forget_classes: tuple[int, ...]
    forget: Latents
    retain: Latents
    seed: int
    earlier_classes: tuple[int, ...] = ()  # erased from the model before: neither forgotten nor retained here
    work_dir: Path | None = None  # where a method that does not use the engine keeps its progress
    precision: Literal["fp32", "bf16"] = "fp32"  # of the network's arithmetic; weights and losses are fp32
    progress: bool = False  # whether preparations show a bar
    reference: DiT | None = None  # frozen copy of the original
    posterior: Posterior | None = None
    forget_fisher: Fisher | None = None
    data_fisher: Fisher | None = None  # of all images, erased classes included
    forget_share: float = 0.0  # of the erased classes among the images of the data Fisher
    original_rows: Tensor = field(init=False)  # label table before erasure, (num_classes + 1, D)

    def __post_init__(self) -> None:
        self.original_rows = label_table(self.model.transformer).detach().clone()

    @property
    def removed_classes(self) -> tuple[int, ...]:
        """The classes that are erased, now or before."""
        return (*self.forget_classes, *self.earlier_classes)

    @property
    def retained_classes(self) -> list[int]:
        """Every other class of the model."""
        return [index for index in range(self.model.num_classes) if index not in self.removed_classes]

    def draw(self, side: str, step: int, phase: int, *, batch_size: int, label_dropout: float) -> Batch:
        """Batch number (step, phase) of the ``"forget"`` or ``"retain"`` set, a pure function of its arguments."""
        latents = self.forget if side == "forget" else self.retain
        indices = epoch_indices(len(latents), batch_size, step, seed=self.seed, stream=f"{side} order {phase}")
        return self.noise(latents, indices, stream=(side, step, phase), label_dropout=label_dropout)

    def noise(self, latents: Latents, indices: Tensor, *, stream: tuple[str | int, ...], label_dropout: float) -> Batch:
        """Noise the latents at ``indices`` at uniform timesteps; ``stream`` names the draws."""
        draws = generator(self.seed, "noise", *stream)
        labels = latents.class_labels[indices]
        if label_dropout:
            null_class = self.model.null_class
            labels = drop_labels(labels, probability=label_dropout, null_class=null_class, generator=draws)
        x0 = latents.draw(indices, generator=draws).to(self.model.device)
        noised = draw_noise(self.model.noise_schedule, x0, labels.to(self.model.device), generator=draws)
        return Batch(noised, stream_seed(self.seed, "batch", *stream))

    def predict(self, noised: Noised) -> Tensor:
        """Output (B, 2C, H, W) of the model that is being erased."""
        with self.autocast():
            return self.model.predict(noised.noisy_latents, noised.timesteps, noised.class_labels).float()

    def autocast(self) -> torch.autocast:
        """The precision of the network's arithmetic, as a context."""
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    @torch.no_grad()
    def reference_output(self, noised: Noised, class_labels: Tensor) -> Tensor:
        """Output (B, 2C, H, W) of the frozen original under other labels."""
        with self.autocast():
            return self.reference.predict(noised.noisy_latents, noised.timesteps, class_labels).float()

    def denoising(self, noised: Noised) -> DenoisingLoss:
        """The training loss of the model that is being erased, per sample."""
        return denoising_loss(self.model.noise_schedule, self.predict(noised), noised)
