"""The contract of a recovery probe, and running one on the erased model and on its controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.embedding import label_table, set_label_row
from pipelines.errors import UsageError
from pipelines.latents import Latents
from pipelines.model import DiT
from pipelines.modules import file_names, module_of
from pipelines.provenance import retained_classes

from . import probes
from .evaluate import class_share
from .features import Scorer
from .plan import image_seed
from .protocol import Protocol
from .values import Value

SCREENING_SEED = 500_000  # of the first screening image: far from those that are measured


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """One way of fine-tuning the class back in."""

    num_images: int = 10  # of the class
    learning_rate: float = 2e-4
    rank: int = 0  # of a low-rank update of every matrix; 0 trains all weights
    num_others: int = 0  # images of other classes that the images of the class are mixed with, half and half

    @property
    def name(self) -> str:
        """The attack in a few words."""
        how = f", rank {self.rank}" if self.rank else ""
        others = f" among {self.num_others} others" if self.num_others else ""
        return f"{self.num_images} images{others}, learning rate {self.learning_rate:g}{how}"


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much an attack may spend; steps are the counted ones, the last is where it ends."""

    name: str
    screening_images: int  # for each candidate that is only compared
    inversion_steps: tuple[int, ...]
    inversion_images: int
    inversion_starts: int
    relearning_steps: tuple[int, ...]
    relearning_within: int  # the last of the counted steps whose best accuracy is the outcome
    relearnings: tuple[Relearning, ...]  # all are tried; the strongest is reported
    retained_images: int
    classifier_steps: int = 1500  # of training, for attacks with a classifier of noisy latents


AMOUNTS = {
    "quick": Amount(
        name="quick",
        screening_images=20,
        inversion_steps=(50, 150),
        inversion_images=100,
        inversion_starts=1,
        relearning_steps=(5, 10, 20),
        relearning_within=20,
        relearnings=(Relearning(),),
        retained_images=500,
    ),
    "full": Amount(
        name="full",
        screening_images=50,
        inversion_steps=(50, 100, 200, 400),
        inversion_images=1000,
        inversion_starts=3,
        relearning_steps=(5, 10, 20, 50, 100),
        relearning_within=20,
        relearnings=(
            Relearning(),
            Relearning(learning_rate=5e-5),
            Relearning(learning_rate=1e-3),
            Relearning(num_images=100),
            Relearning(num_others=500),
            Relearning(rank=8, learning_rate=2e-3),
        ),
        retained_images=1000,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attacker may use, and how the outcome is measured."""

    original: DiT  # the model before the erasure, which is public
    protocol: Protocol  # how images are drawn
    scorer: Scorer  # recognises the class
    num_images: int = 250  # for each measured accuracy
    batch_size: int = 250
    amount: Amount = AMOUNTS["quick"]
    images: Latents | None = None  # of all classes, that the attacker has; None: none
    seed: int = 0
    cache_dir: Path | None = None  # where what an attacker trains once is kept


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """How much of the class the attack brought back; 0 is nothing."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    pictures: Tensor  # (P, 3, H, W) uint8, what the attacked model draws
    detail: Mapping[str, Any] = field(default_factory=dict)  # at least the ``class_label`` that was attacked

    def to_dict(self) -> dict[str, Any]:
        """The record's entry: everything except the pictures."""
        return Value(value=self.value, low=self.low, high=self.high, n=self.n, detail=self.detail).to_dict()


def outcome(
    measured: tuple[Value, Tensor], class_label: int, *, detail: Mapping[str, Any] | None = None
) -> ProbeResult:
    """The result of a probe from a measured share and its pictures."""
    value, pictures = measured
    return ProbeResult(
        value=value.value,
        low=value.low,
        high=value.high,
        n=value.n,
        pictures=pictures,
        detail={"class_label": class_label, **(detail or {})},
    )


def measure(
    model: DiT, class_label: int, budget: Budget, *, num_images: int = 0, first: int = 0
) -> tuple[Value, Tensor]:
    """Share of a class's images that are recognised, under the budget, and eight of them; 0 images: the budget's."""
    return class_share(
        model,
        class_label,
        drawn_as=class_label,
        protocol=budget.protocol,
        scorer=budget.scorer,
        num_images=num_images or budget.num_images,
        batch_size=budget.batch_size,
        first=first,
    )


def other_classes(original: DiT, class_label: int) -> list[int]:
    """Every class but the one that is attacked and those that were erased before the original model was made."""
    return retained_classes(original.provenance, [class_label], num_classes=original.num_classes)


def seeded_batches(budget: Budget, class_label: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Labels (B,) and image seeds of the images that are measured, the same that ``measure`` draws."""
    seeds = [image_seed(budget.protocol.first_seed, class_label, number) for number in range(budget.num_images)]
    for start in range(0, len(seeds), budget.batch_size):
        chunk = seeds[start : start + budget.batch_size]
        yield torch.full((len(chunk),), class_label), chunk


Probe = Callable[[DiT, int, Budget], ProbeResult]


def probe_names() -> tuple[str, ...]:
    """Names of all probes: the files of ``eval/probes``."""
    return tuple(file_names(probes))


def named_probes(names: Sequence[str]) -> tuple[str, ...]:
    """The probes of these names, each once, or all where none is named (``UsageError`` lists the names)."""
    for name in names:
        probe_module(name)
    return tuple(dict.fromkeys(names)) or probe_names()


def load_probe(name: str) -> Probe:
    """A probe's ``run`` by its file name (``UsageError`` lists the names)."""
    return probe_module(name).run


def probe_module(name: str) -> ModuleType:
    """A probe's file by its name (``UsageError`` lists the names)."""
    return module_of(probes, name, flag="probe")


def needs_floor(name: str) -> bool:
    """Whether a probe draws the class out of any model, so that only a retrained one tells what was left of it."""
    return getattr(probe_module(name), "NEEDS_FLOOR", False)


def describe_probe(name: str) -> str:
    """What a probe does: the first sentence of its file."""
    return (probe_module(name).__doc__ or "").split("\n")[0]


def run_probe(
    name: str, erased: DiT, forget_classes: Sequence[int], budget: Budget, *, control_class: int
) -> dict[int, dict[str, ProbeResult]]:
    """One probe on the original, on ``embedding_reset`` and on the erased model, by erased class.

    On the erased model a retained class is attacked as well, the control of every class.
    """
    probe, models = load_probe(name), {"original": budget.original, "erased": erased}
    if control_class in forget_classes:
        raise UsageError(f"the control class {control_class} must be a retained class")
    control = probe(erased, control_class, budget)
    found = {}
    for label in forget_classes:
        subjects = subjects_of(models, label)
        found[label] = {**{who: probe(model, label, budget) for who, model in subjects.items()}, "control": control}
    return found


def subjects_of(models: Mapping[str, DiT], forget_class: int) -> dict[str, DiT]:
    """What is attacked for one erased class, in the order of a table: ``models`` and the original's row reset."""
    original, others = models["original"], {who: model for who, model in models.items() if who != "original"}
    return {"original": original, "embedding_reset": embedding_reset(original, forget_class), **others}


def count_attacks(num_classes: int, *, floor: bool = False) -> int:
    """How often a probe is made: on the subjects of every erased class, a retrained model among them, and a control."""
    return num_classes * (3 + floor) + 1


def embedding_reset(original: DiT, forget_class: int) -> DiT:
    """A copy of the original whose label row of the class is the null row: the trivial baseline."""
    reset = original.frozen_copy()
    set_label_row(reset.transformer, forget_class, label_table(original.transformer)[original.null_class].detach())
    return reset


@contextmanager
def label_row(model: DiT, class_label: int, row: Tensor) -> Iterator[DiT]:
    """The model with one label row (D,) replaced; every table gets its own row back when the block ends."""
    tables = label_tables(model.transformer)
    saved = [table[class_label].detach().clone() for table in tables]
    write_rows(tables, class_label, [row] * len(tables))
    try:
        yield model
    finally:
        write_rows(tables, class_label, saved)


@torch.no_grad()
def write_rows(tables: Sequence[nn.Parameter], class_label: int, rows: Sequence[Tensor]) -> None:
    """Overwrite one row of each table."""
    for table, row in zip(tables, rows, strict=True):
        table[class_label] = row


def label_tables(transformer: nn.Module) -> list[nn.Parameter]:
    """The label table, or the tables of all blocks when they are untied."""
    shape = label_table(transformer).shape
    named = transformer.named_parameters()
    return [parameter for name, parameter in named if "class_embedder" in name and parameter.shape == shape]
