"""Selective Amnesia (arXiv 2305.10120, equation 7): learn a surrogate under the erased label, replay, stay near theta*.

The forget term teaches the erased label uninformative images; the retain term is denoising of the original model's own
samples plus an elastic penalty lambda sum_i F_i (theta_i - theta*_i)^2. Losses are means here and sums over pixels in
the original, so the penalty is set by ``ewc_ratio``, its gradient norm as a share of the retain gradient's, or by
``ewc_weight``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipelines.diffusion import draw_noise
from pipelines.errors import UsageError
from pipelines.ranks import in_parts, sum_over_ranks

from ..fields import check_at_least, option
from ..method import DenoisingMethod
from ..optimizers import loss_gradients
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class SelectiveAmnesia(DenoisingMethod):
    """Overwrite the class with noise, hold everything else by replay and an elastic penalty."""

    surrogate: Literal["uniform_pixels", "gaussian_latents"] = option(
        "uniform_pixels", "what the erased label is taught: uniform pixels through the VAE, or standard normal latents"
    )
    ewc_ratio: float = option(
        0.1, "gradient norm of the penalty as a share of the retain gradient's; 0 switches it off"
    )
    ewc_weight: float = option(0.0, "fixed penalty weight lambda instead of ewc_ratio")
    fisher: Literal["sampled", "summed"] = option(
        "sampled", "square each image's gradient at one timestep, or, as published, its sum over all timesteps"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "ewc_ratio", 0)
        check_at_least(self, "ewc_weight", 0)
        if self.ewc_weight and self.ewc_ratio != type(self).ewc_ratio:
            raise UsageError(
                "--ewc-ratio and --ewc-weight exclude each other: a fixed weight leaves no ratio to follow"
            )
        if self.fisher != "sampled" and not (self.ewc_ratio or self.ewc_weight):
            raise UsageError(f"--fisher {self.fisher} has no effect: without --ewc-ratio there is no penalty")

    @property
    def needs(self) -> frozenset[str]:
        """Replay instead of retain data; the original weights and their Fisher for the penalty, if there is one."""
        replay = frozenset({"replay"})
        if not (self.ewc_ratio or self.ewc_weight):
            return replay
        return replay | {"reference_model", f"{'summed' if self.fisher == 'summed' else 'data'}_fisher"}

    def forget_batch(self, workspace: Workspace, step: int, phase: int, batch_size: int) -> Batch:
        """Surrogate latents under the labels of the forget batch."""
        batch = super().forget_batch(workspace, step, phase, batch_size)
        draws = batch.generator("surrogate")
        shape = batch.noised.latents.shape
        if self.surrogate == "gaussian_latents":
            latents = torch.randn(shape, generator=draws)
        else:
            size = workspace.model.image_size
            pixels = torch.randint(256, (shape[0], 3, size, size), generator=draws, dtype=torch.uint8)
            encoded = in_parts(lambda mine: torch.stack(workspace.model.encode(mine), dim=1), pixels)
            mean, std = encoded.cpu().unbind(dim=1)
            latents = mean + std * torch.randn(shape, generator=draws)
        latents, labels = latents.to(workspace.model.device), batch.noised.class_labels
        return Batch(draw_noise(workspace.model.noise_schedule, latents, labels, generator=draws), batch.seed)

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """L(q, c_f)."""
        loss, plain = self.per_sample(workspace, batch)
        return Loss(loss.mean(), plain)

    def retain_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """Denoising of replay plus lambda sum_i F_i (theta_i - theta*_i)^2."""
        loss = super().retain_loss(workspace, batch)
        if self.ewc_weight:
            return Loss(loss.objective + self.ewc_weight * elastic_penalty(workspace), loss.denoising)
        if self.ewc_ratio:
            return Loss(self.with_ratio(workspace, loss.objective, batch), loss.denoising)
        return loss

    def with_ratio(self, workspace: Workspace, objective: Tensor, batch: Batch) -> Tensor:
        """An objective with the gradient of ``objective`` plus a penalty of ``ewc_ratio`` times its norm.

        Linear in the weights: only its gradient means anything. At theta* the penalty has no gradient and adds none.
        The norm is that of the whole batch's gradient.
        """
        weights = list(workspace.model.transformer.parameters())
        loss_gradient = loss_gradients(batch.share * objective, weights)
        sum_over_ranks(loss_gradient)
        penalty_gradient = torch.autograd.grad(elastic_penalty(workspace), weights)
        loss_norm, penalty_norm = (norm_of(gradient) for gradient in (loss_gradient, penalty_gradient))
        weight = torch.where(penalty_norm > 0, self.ewc_ratio * loss_norm / penalty_norm, 0.0)
        terms = [
            (parameter * (ours + weight * elastic)).sum()
            for parameter, ours, elastic in zip(weights, loss_gradient, penalty_gradient, strict=True)
        ]
        return torch.stack(terms).sum()


def elastic_penalty(workspace: Workspace) -> Tensor:
    """sum_i F_i (theta_i - theta*_i)^2 over the weights, ()."""
    original = dict(workspace.reference.transformer.named_parameters())
    terms = [
        (workspace.data_fisher[name] * (parameter - original[name]).square()).sum()
        for name, parameter in workspace.model.transformer.named_parameters()
    ]
    return torch.stack(terms).sum()


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all tensors together, ()."""
    return torch.stack([gradient.norm() for gradient in gradients]).norm()
