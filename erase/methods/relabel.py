"""Relabelling: the forget set is learned under one other label, as SFR-on's and DualOptim's released DiT scripts do.

The erased label itself is never conditioned on, so its row keeps what it knew unless the shared weights move: a
baseline, kept under its own name.
"""

from dataclasses import dataclass

from pipelines.errors import UsageError

from ..evidence import forget_gradient_mask
from ..fields import check_share, option
from ..method import DenoisingMethod, map_labels, other_class
from ..optimizers import PhaseMasks
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class Relabel(DenoisingMethod):
    """Attach the images of the class to one other label."""

    label_offset: int = option(100, "the other label is (c + offset) modulo the number of classes, moved on if erased")
    mask_fraction: float = option(0.0, "share of weights in the saliency mask of the forget phase; 0 uses no mask")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "mask_fraction")
        if self.label_offset < 1:
            raise UsageError(f"--label-offset {self.label_offset} must be at least 1")

    @property
    def mask_density(self) -> float:
        """The share that was asked for."""
        return self.mask_fraction or 1.0

    @property
    def defends_labels(self) -> bool:
        """The images stay under the attackers' rows whatever their labels: it would train for the attackers."""
        return False

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """L(x0, c') with one fixed c' for each erased class."""
        mapping = {c: other_class(workspace, c, offset=self.label_offset) for c in workspace.forget_classes}
        relabelled = batch.noised.relabelled(map_labels(batch.noised.class_labels, mapping))
        loss, plain = self.per_sample(workspace, Batch(relabelled, batch.seed))
        return Loss(loss.mean(), plain)

    def masks(self, workspace: Workspace) -> PhaseMasks:
        """The weights with the largest forget gradient, when a mask is asked for."""
        return PhaseMasks(forget=forget_gradient_mask(workspace, fraction=self.mask_fraction))
