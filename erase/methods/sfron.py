"""SFR-on (arXiv 2409.19732, equations 11 to 14): sample-weighted ascent where forgetting outweighs retaining."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.errors import UsageError
from pipelines.ranks import sum_over_ranks

from ..evidence import fisher_ratio_mask
from ..fields import option
from ..method import DenoisingMethod
from ..optimizers import PhaseMasks
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class SFRon(DenoisingMethod):
    """Ascend on the forget set in the weights whose Fisher ratio favours it, repair on the retain set in all."""

    paper: ClassVar[Mapping[str, Any]] = {
        "optimizers": "shared",
        "steps": 600,
        "fisher_samples": 2000,
        "forget_weight": 1e-3,
        "forget_learning_rate": 1e-4,
        "retain_learning_rate": 1e-4,
        "forget_lr_schedule": "constant",
        "retain_lr_schedule": "constant",
        "weight_power": 0.0,
        "forget_vlb": "full",
        "forget_label_dropout": 0.1,
        "retain_clip": 0.0,
    }

    mask_threshold: float = option(1.0, "forget over retain Fisher from which a weight may change in the forget phase")
    weight_power: float = option(0.5, "samples are weighted by their loss to minus this power; 0 is plain ascent")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mask_threshold > 0:
            raise UsageError(f"--mask-threshold {self.mask_threshold} must be above 0")
        if not self.weight_power >= 0:
            raise UsageError(f"--weight-power {self.weight_power} must be at least 0")

    @property
    def needs(self) -> frozenset[str]:
        """The Fisher diagonals of the forget set and of everything, for the mask."""
        return frozenset({"forget_fisher", "data_fisher"})

    @property
    def mask_density(self) -> float:
        """About half: the ratio of two Fishers of one network lies on both sides of any threshold near 1."""
        return 0.5

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """-sum_n w_n L_n, w_n = L_n^-lambda / sum_m L_m^-lambda without gradient (equation 13).

        The sum over m is that of the whole batch; a mean over a part of it is weighted by the part's share.
        """
        loss, plain = self.per_sample(workspace, batch)
        weights = loss.detach().clamp(min=1e-8).pow(-self.weight_power)
        total = weights.sum()
        sum_over_ranks([total])
        weights = weights / (total * batch.share)
        return Loss(-(weights * loss).sum(), plain)

    def masks(self, workspace: Workspace) -> PhaseMasks:
        """S_i = 1[F_f,i / F_r,i >= gamma] on the forget phase alone (equation 12)."""
        return PhaseMasks(forget=fisher_ratio_mask(workspace, threshold=self.mask_threshold))
