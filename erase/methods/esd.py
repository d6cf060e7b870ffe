"""ESD (arXiv 2303.07345, equation 7) for class labels: steer the erased label away from what it meant.

At eta 0 the target is the null prediction itself, an anchor without negation.
"""

from dataclasses import dataclass

import torch

from pipelines.diffusion import denoising_loss
from pipelines.errors import UsageError

from ..fields import option
from ..method import Method
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class ESD(Method):
    """Negate the class direction of the frozen model under the erased label."""

    negative_guidance: float = option(1.0, "strength eta of the negation; 0 anchors the label to the null prediction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.negative_guidance >= 0:
            raise UsageError(f"--negative-guidance {self.negative_guidance} must be at least 0")

    @property
    def needs(self) -> frozenset[str]:
        """The frozen model, whose predictions make the target."""
        return frozenset({"reference_model"})

    def target_passes(self, num_retained: int) -> int:
        """The frozen model under the class and under the null label."""
        return 2

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """||e_theta(x_t|c_f) - [e*(x_t|null) - eta (e*(x_t|c_f) - e*(x_t|null))]||^2."""
        noised = batch.noised
        null_labels = torch.full_like(noised.class_labels, workspace.model.null_class)
        conditional = workspace.reference_output(noised, noised.class_labels).chunk(2, dim=1)[0]
        unconditional = workspace.reference_output(noised, null_labels).chunk(2, dim=1)[0]
        target = unconditional - self.negative_guidance * (conditional - unconditional)

        output = workspace.predict(noised)
        plain = denoising_loss(workspace.model.noise_schedule, output.detach(), noised).simple.mean()
        return Loss((output.chunk(2, dim=1)[0] - target).square().mean(), plain)
