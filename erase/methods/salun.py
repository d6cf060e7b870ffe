"""SalUn (arXiv 2310.12508, equations 3 to 6): the erased label is taught to predict what another label predicts.

As published the other prediction comes from the current model, detached; clipping precedes the mask, both sides are
masked, and forget and weighted retain loss share one joint step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from pipelines.diffusion import denoising_loss

from ..evidence import forget_gradient_mask
from ..fields import check_share, option
from ..method import Method, map_labels, other_class
from ..optimizers import PhaseMasks
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class SalUn(Method):
    """Move the erased label's predictions onto another class, in the most salient weights only."""

    paper: ClassVar[Mapping[str, Any]] = {
        "optimizers": "shared",
        "update": "joint",
        "steps": 1000,
        "retain_weight": 1e-3,
        "forget_learning_rate": 1e-4,
        "retain_learning_rate": 1e-4,
        "forget_lr_schedule": "constant",
        "retain_lr_schedule": "constant",
        "clip_order": "clip-mask",
        "mask_fraction": 0.5,
        "target_model": "current",
    }

    masks_retain: ClassVar[bool] = True

    mask_fraction: float = option(0.5, "share of weights in the saliency mask of both phases; 0 uses no mask")
    target_model: Literal["current", "reference"] = option("current", "whose prediction under the other label to match")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "mask_fraction")

    @property
    def needs(self) -> frozenset[str]:
        """The reference model when its predictions are the target."""
        return frozenset({"reference_model"} if self.target_model == "reference" else ())

    @property
    def mask_density(self) -> float:
        """The share that was asked for."""
        return self.mask_fraction or 1.0

    def target_passes(self, num_retained: int) -> int:
        """The prediction under the other label."""
        return 1

    @property
    def defends_labels(self) -> bool:
        """A target of the current model would be under the attackers' rows as well, and so equal to the prediction."""
        return self.target_model == "reference"

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """mean ||e_theta(x_t | c_f) - stopgrad e(x_t | c')||^2 with c' the next class (equation 5)."""
        noised = batch.noised
        others = map_labels(noised.class_labels, {c: other_class(workspace, c) for c in workspace.forget_classes})
        if self.target_model == "reference":
            target = workspace.reference_output(noised, others)
        else:
            with torch.no_grad():
                target = workspace.predict(noised.relabelled(others))
        output = workspace.predict(noised)

        noise_pred, target_noise = output.chunk(2, dim=1)[0], target.chunk(2, dim=1)[0]
        plain = denoising_loss(workspace.model.noise_schedule, output.detach(), noised).simple.mean()
        return Loss((noise_pred - target_noise).square().mean(), plain)

    def masks(self, workspace: Workspace) -> PhaseMasks:
        """The top share of |sum of forget gradients| over all weights together, on both sides (equation 3)."""
        mask = forget_gradient_mask(workspace, fraction=self.mask_fraction)
        return PhaseMasks(forget=mask, retain=mask)
