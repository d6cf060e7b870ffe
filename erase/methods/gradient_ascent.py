"""Gradient ascent on the denoising loss of the forget set, plain or bounded.

Plain ascent is the diffusion loss of SFR-on's released DiT script (arXiv 2409.19732); the bounded forms are a clamp
and negative preference optimization (NPO, arXiv 2404.05868, equation 3) with losses in the place of log-likelihoods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch.nn.functional import logsigmoid

from pipelines.diffusion import denoising_loss
from pipelines.errors import UsageError

from ..fields import flag, option
from ..method import DenoisingMethod
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class GradientAscent(DenoisingMethod):
    """Make the class impossible to denoise."""

    paper: ClassVar[Mapping[str, Any]] = {
        "optimizers": "shared",
        "steps": 600,
        "forget_weight": 1e-3,
        "forget_learning_rate": 1e-4,
        "retain_learning_rate": 1e-4,
        "forget_lr_schedule": "constant",
        "retain_lr_schedule": "constant",
        "forget_vlb": "full",
        "forget_label_dropout": 0.1,
        "retain_clip": 0.0,
    }

    bound: Literal["none", "clamp", "npo"] = option("none", "how the ascent is bounded")
    max_loss: float = option(1.0, "per-sample loss at which the clamp stops the ascent")
    npo_beta: float = option(1.0, "inverse temperature of the NPO form")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, bound in (("max_loss", "clamp"), ("npo_beta", "npo")):
            value = getattr(self, name)
            if not value > 0:
                raise UsageError(f"{flag(name)} {value} must be above 0")
            if value != getattr(type(self), name) and self.bound != bound:
                raise UsageError(f"{flag(name)} {value} has no effect without --bound {bound}")

    @property
    def needs(self) -> frozenset[str]:
        """The NPO form compares with the original model's loss."""
        return frozenset({"reference_model"} if self.bound == "npo" else ())

    def target_passes(self, num_retained: int) -> int:
        """The original model's loss in the NPO form."""
        return int(self.bound == "npo")

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """-L, -min(L, tau), or -(2/b) log sigmoid(b (L - L*))."""
        loss, plain = self.per_sample(workspace, batch)
        if self.bound == "clamp":
            objective = -loss.clamp(max=self.max_loss)
        elif self.bound == "npo":
            noised = batch.noised
            output = workspace.reference_output(noised, noised.class_labels)
            original = denoising_loss(workspace.model.noise_schedule, output, noised)
            original = original.denoising if self.forget_vlb == "full" else original.simple
            objective = -2 / self.npo_beta * logsigmoid(self.npo_beta * (loss - original))
        else:
            objective = -loss
        return Loss(objective.mean(), plain)
