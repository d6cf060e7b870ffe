"""Random labelling: the forget set is learned under labels of the retained classes (RL in SalUn, arXiv 2310.12508)."""

from dataclasses import dataclass

import torch

from ..evidence import forget_gradient_mask
from ..fields import check_share, option
from ..method import DenoisingMethod
from ..optimizers import PhaseMasks
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class RandomLabel(DenoisingMethod):
    """Attach the images of the class to every other label."""

    mask_fraction: float = option(0.0, "share of weights in the saliency mask of the forget phase; 0 uses no mask")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "mask_fraction")

    @property
    def mask_density(self) -> float:
        """The share that was asked for."""
        return self.mask_fraction or 1.0

    @property
    def defends_labels(self) -> bool:
        """The images stay under the attackers' rows whatever their labels: it would train for the attackers."""
        return False

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """L(x0, c') with c' uniform over the retained classes, one draw per sample."""
        retained = torch.tensor(workspace.retained_classes)
        choices = torch.randint(len(retained), (batch.total,), generator=batch.generator("random labels"))
        drawn, labels = batch.rows_of(retained[choices]), batch.noised.class_labels
        dropped = labels == workspace.model.null_class
        relabelled = batch.noised.relabelled(torch.where(dropped, labels, drawn.to(labels.device)))
        loss, plain = self.per_sample(workspace, Batch(relabelled, batch.seed))
        return Loss(loss.mean(), plain)

    def masks(self, workspace: Workspace) -> PhaseMasks:
        """The weights with the largest forget gradient, when a mask is asked for."""
        return PhaseMasks(forget=forget_gradient_mask(workspace, fraction=self.mask_fraction))
