"""The contract of an erasure method: one file in ``erase/methods``, found by its file name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pipelines.errors import UsageError
from pipelines.modules import class_of, file_names

from . import methods
from .fields import check_literals, check_share, check_types, option
from .optimizers import PhaseMasks
from .task import Loss
from .workspace import Batch, Workspace

NEEDS = {
    "reference_model": "a frozen copy of the original weights",
    "posterior": "a classifier of noisy latents",
    "forget_fisher": "the Fisher diagonal of the forget set",
    "data_fisher": "the Fisher diagonal of all images, made once for a model and its data",
    "summed_fisher": "the same with each image's gradient summed over all timesteps before it is squared",
    "replay": "samples of the original model as the retain set",
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods. Fields are hyper-parameters, command-line flags and saved configuration at once."""

    trains: ClassVar[bool] = True  # False: ``edit`` makes the result and the engine does not run
    defaults: ClassVar[Mapping[str, Any]] = {}  # engine settings that differ from EngineConfig's
    paper: ClassVar[Mapping[str, Any]] = {}  # engine and method settings as published
    masks_retain: ClassVar[bool] = False  # whether the retain phase has the mask as well

    retain_label_dropout: float = option(0.1, "share of retain labels replaced by the null class")

    def __post_init__(self) -> None:
        check_types(self)
        check_literals(self)
        check_share(self, "retain_label_dropout", below_one=True)
        if not self.trains and self.retain_label_dropout != Method.retain_label_dropout:
            raise UsageError(f"--retain-label-dropout {self.retain_label_dropout} has no effect: no steps are taken")

    @property
    def needs(self) -> frozenset[str]:
        """What has to be prepared before the first step, of ``NEEDS``."""
        return frozenset()

    @property
    def mask_density(self) -> float:
        """Share of weights that the forget mask is expected to hold, for the plan; 1 without a mask."""
        return 1.0

    def target_passes(self, num_retained: int) -> int:
        """Forward passes without gradient that the forget loss takes for each image, for the plan."""
        return 0

    def edit_rows(self, provenance: Mapping[str, Any]) -> int:
        """Forward-equivalent rows of ``edit`` for a model of this provenance, for the plan."""
        return 0

    def forget_batch(self, workspace: Workspace, step: int, phase: int, batch_size: int) -> Batch:
        """A batch of the forget set under its own labels."""
        return workspace.draw("forget", step, phase, batch_size=batch_size, label_dropout=0.0)

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """The loss that removes the class, always minimised."""
        raise NotImplementedError

    @property
    def defends_labels(self) -> bool:
        """Whether the forget loss says something under an attacker's row: its target must not depend on that row."""
        return True

    def attacked_label_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """The forget loss where the erased rows are an attacker's: the same, unless the method has a better target."""
        return self.forget_loss(workspace, batch)

    def retain_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """The loss that keeps everything else: ordinary denoising of the retain set."""
        loss = workspace.denoising(batch.noised)
        return Loss(loss.denoising.mean(), loss.simple.mean().detach())

    def masks(self, workspace: Workspace) -> PhaseMasks:
        """Saliency masks, computed once before the first step."""
        return PhaseMasks()

    def edit(self, workspace: Workspace) -> None:
        """Change the model directly; only for methods that do not train."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DenoisingMethod(Method):
    """Base of the methods whose forget loss is made of denoising losses."""

    forget_vlb: Literal["off", "full"] = option("off", "whether the forget loss includes the variance term")
    forget_label_dropout: float = option(0.0, "share of forget labels replaced by the null class")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "forget_label_dropout", below_one=True)

    def forget_batch(self, workspace: Workspace, step: int, phase: int, batch_size: int) -> Batch:
        """A batch of the forget set with the method's label dropout."""
        return workspace.draw("forget", step, phase, batch_size=batch_size, label_dropout=self.forget_label_dropout)

    def per_sample(self, workspace: Workspace, batch: Batch) -> tuple[Tensor, Tensor]:
        """Denoising loss (B,) with or without the variance term, and L_simple () for the log."""
        loss = workspace.denoising(batch.noised)
        return loss.denoising if self.forget_vlb == "full" else loss.simple, loss.simple.mean().detach()


def method_names() -> list[str]:
    """Names of all methods: the files of ``erase/methods``."""
    return file_names(methods)


def method_class(name: str) -> type[Method]:
    """The class that a method file defines (``UsageError`` lists the methods)."""
    return class_of(methods, name, Method, flag="--method")


def other_class(workspace: Workspace, class_label: int, *, offset: int = 1) -> int:
    """The class ``offset`` further on, skipping the classes that are erased, now or before."""
    num_classes = workspace.model.num_classes
    other = (class_label + offset) % num_classes
    while other in workspace.removed_classes:
        other = (other + 1) % num_classes
    return other


def map_labels(class_labels: Tensor, mapping: Mapping[int, int]) -> Tensor:
    """Labels (B,) with each key replaced by its value; other labels (the null class) stay."""
    mapped = class_labels.clone()
    for old, new in mapping.items():
        mapped = torch.where(class_labels == old, new, mapped)
    return mapped
