"""The contract of a metric: ``update`` with a batch, ``compute`` values, ``state`` and ``absorb`` to merge shards."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipelines.modules import class_of, file_names

from . import metrics
from .reference import Reference
from .values import Value

NO_FEATURES = torch.empty(0, 0)
Better = Literal["lower", "higher", "neither"]
Unit = Literal["share", "distance", "bits"]


@dataclass(frozen=True, kw_only=True)
class Display:
    """How a table names one value; ``{space}`` in a title stands for the feature space."""

    key: str  # in the record
    title: str
    better: Better
    unit: Unit
    meaning: str  # one sentence for someone who has never seen the metric
    inception_title: str = ""  # the name that only Inception features earn


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every metric of one evaluation may look at."""

    forget_classes: tuple[int, ...]
    num_classes: int
    seed: int
    reference: Reference | None = None  # held-out real images of the retained classes; None: no metric looks at them
    training_features: Tensor = NO_FEATURES  # (M, D); empty unless copies are looked for
    inception_head: Tensor | None = None  # (1008, D) from features to logits; None: these are not Inception's
    earlier_classes: tuple[int, ...] = ()  # erased before: neither forget nor retained classes

    def has(self, need: str) -> bool:
        """Whether a metric's need is met."""
        return {
            "reference_features": self.reference is not None and len(self.reference.features) > 0,
            "training_features": len(self.training_features) > 0,
            "inception_head": self.inception_head is not None,
        }[need]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Generated images and what the scorer saw in them."""

    images: Tensor  # (B, 3, H, W)  uint8
    class_labels: Tensor  # (B,)          labels that they were generated under
    logits: Tensor  # (B, K)        float32
    features: Tensor  # (B, D)        float32
    forget_classes: tuple[int, ...]

    @cached_property
    def is_forget(self) -> Tensor:
        """(B,) bool: generated under a forget class."""
        return torch.isin(self.class_labels, torch.tensor(self.forget_classes))

    @cached_property
    def predicted(self) -> Tensor:
        """(B,) class that the classifier sees; -1 where its logits are not finite."""
        return torch.where(self.logits.isfinite().all(1), self.logits.argmax(1), -1)

    @cached_property
    def retained_features(self) -> Tensor:
        """(B', D) features of the images generated under retained classes, shared by the metrics that keep them."""
        return self.features[~self.is_forget]


class Metric(ABC):
    """One metric over all images of one model; its state is sums that add up and tensors that line up."""

    shows: ClassVar[tuple[Display, ...]]  # the values that ``compute`` may return
    needs: ClassVar[tuple[str, ...]] = ()  # of Context.has

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sums: dict[str, Tensor] = {}
        self.parts: dict[str, list[Tensor]] = {}

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Take in one batch; how images fall into batches changes nothing."""

    @abstractmethod
    def compute(self) -> dict[str, Value]:
        """The values over everything taken in so far."""

    def add(self, name: str, amount: Tensor) -> None:
        """Add to a named sum."""
        self.sums[name] = self.sums[name] + amount if name in self.sums else amount.clone()

    def count(self, name: str, class_labels: Tensor) -> None:
        """Add a histogram over classes (K,) to a named sum."""
        self.add(name, torch.bincount(class_labels, minlength=self.context.num_classes))

    def keep(self, name: str, rows: Tensor) -> None:
        """Keep rows under a name."""
        self.parts.setdefault(name, []).append(rows)

    def total(self, name: str) -> Tensor:
        """A named sum; a histogram of zeros before anything was added."""
        return self.sums.get(name, torch.zeros(self.context.num_classes, dtype=torch.long))

    def kept(self, name: str) -> Tensor:
        """All rows kept under a name, in order; (0, D) before any were."""
        if name not in self.parts:
            return torch.empty(0, self.context.reference.num_features)
        return torch.cat(self.parts[name])

    def state(self) -> dict[str, Tensor]:
        """Everything taken in so far, to be written by a shard."""
        sums = {f"sum/{name}": tensor for name, tensor in self.sums.items()}
        return {**sums, **{f"rows/{name}": self.kept(name) for name in self.parts}}

    def absorb(self, state: Mapping[str, Tensor]) -> None:
        """Take in the state of another shard; shards in order give what one pass gives."""
        for key, tensor in state.items():
            kind, name = key.split("/", 1)
            if kind == "sum":
                self.add(name, tensor)
            else:
                self.keep(name, tensor)


def metric_names() -> tuple[str, ...]:
    """Names of all metrics: the files of ``eval/metrics``."""
    return tuple(file_names(metrics))


def metric_class(name: str) -> type[Metric]:
    """A metric's class by its file name (``UsageError`` lists the names)."""
    return class_of(metrics, name, Metric, flag="--metrics")


@cache
def displays() -> dict[str, Display]:
    """Display of every value that any metric returns."""
    return {show.key: show for name in metric_names() for show in metric_class(name).shows}


def title(key: str, feature_space: str) -> str:
    """Plain name of a value; a distance is named after its features, and only Inception's is called FID or KID."""
    show = displays()[key]
    if feature_space == "inception" and show.inception_title:
        return show.inception_title
    return show.title.format(space=feature_space)
