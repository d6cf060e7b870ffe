"""retain_posterior (ours): compute what a network that never saw the class computes.

By the law of total expectation the null prediction of a network trained without the classes C_f is, in terms of the
original network e*,

    e_r(x_t) = sum over c' not in C_f of p(c' | x_t, c' not in C_f) e*(x_t | c'),

a convex combination of frozen predictions. The erased and the null row are regressed on it, on noisy latents of both
sets; nothing ascends, so nothing needs a bound. The variance is matched by moments,
s2_r = sum_c p_c [s2_c + (mu_c - mu_r)^2], as a Gaussian KL without gradient to the mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pipelines.diffusion import Noised, NoiseSchedule, denoising_loss, gaussian_kl
from pipelines.embedding import label_table

from ..evidence import forget_gradient_mask, with_null_row
from ..fields import check_share, option
from ..method import Method, other_class
from ..optimizers import PhaseMasks
from ..task import Loss
from ..workspace import Batch, Workspace


@dataclass(frozen=True, kw_only=True)
class RetainPosterior(Method):
    """The null label predicts what a network without the class would; the erased label becomes another class."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "forget_learning_rate": 3e-4,
        "retain_learning_rate": 4e-4,
        "robust": True,
        "robust_target": "label",
        "robust_label_life": 1200,
        "forget_batch_size": 32,
        "retain_steps": 2,
    }

    replacement: Literal["posterior", "class", "nearest"] = option(
        "class", "what the erased label becomes: the posterior mixture, the next class, or the nearest by label row"
    )
    mixture: Literal["draw", "sum"] = option(
        "draw", "one label per sample drawn from the posterior, or the sum over all retained classes; same minimiser"
    )
    retain_share: float = option(0.25, "share of the forget batch that is taken from the retain set")
    null_share: float = option(0.5, "share of the forget batch that trains the null row")
    mask_fraction: float = option(0.0, "share of weights in the saliency mask of the forget phase; 0 uses no mask")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("retain_share", "null_share"):
            check_share(self, name, below_one=True)
        check_share(self, "mask_fraction")

    @property
    def needs(self) -> frozenset[str]:
        """The frozen network and the posterior of noisy latents."""
        return frozenset({"reference_model", "posterior"})

    @property
    def mask_density(self) -> float:
        """The share that was asked for."""
        return self.mask_fraction or 1.0

    def target_passes(self, num_retained: int) -> int:
        """The frozen network under one drawn label, or under every retained label and the replacement."""
        return 1 if self.mixture == "draw" else num_retained + (self.replacement != "posterior")

    def forget_batch(self, workspace: Workspace, step: int, phase: int, batch_size: int) -> Batch:
        """Noisy latents of both sets under the erased rows and the null row."""
        from_retain = round(batch_size * self.retain_share)
        forget = workspace.draw("forget", step, phase, batch_size=batch_size - from_retain, label_dropout=0.0)
        parts = [forget.noised]
        if from_retain:
            shared = workspace.draw("retain", step, -1 - phase, batch_size=from_retain, label_dropout=0.0).noised
            erased = torch.tensor(workspace.forget_classes)[torch.arange(from_retain) % len(workspace.forget_classes)]
            parts.append(shared.relabelled(erased.to(shared.class_labels.device)))
        noised = Noised(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

        # A share of the samples, of both sets alike, trains the null row.
        null_rows = torch.rand(batch_size, generator=forget.generator("null rows")) < self.null_share
        labels = torch.where(null_rows.to(noised.class_labels.device), workspace.model.null_class, noised.class_labels)
        return Batch(noised.relabelled(labels), forget.seed)

    def forget_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """||e_theta(x_t | y) - e_r(x_t)||^2 plus the KL of the variances, y the erased or the null row."""
        noised, schedule = batch.noised, workspace.model.noise_schedule
        target_noise, target_log_variance = self.target(workspace, batch)
        output = workspace.predict(noised)
        noise_pred, variance_pred = output.chunk(2, dim=1)

        mean = reverse_mean(schedule, noise_pred.detach(), noised)
        target_mean = reverse_mean(schedule, target_noise, noised)
        log_variance = schedule.model_log_variance(variance_pred, noised.timesteps)
        kl = gaussian_kl(target_mean, target_log_variance, mean, log_variance) / torch.tensor(2.0).log()
        plain = denoising_loss(schedule, output.detach(), noised).simple.mean()
        return Loss((noise_pred - target_noise).square().mean() + kl.mean(), plain)

    def attacked_label_loss(self, workspace: Workspace, batch: Batch) -> Loss:
        """An attacked row may lie anywhere, also beside a retained one: only the mixture is right everywhere."""
        return replace(self, replacement="posterior").forget_loss(workspace, batch)

    @torch.no_grad()
    def target(self, workspace: Workspace, batch: Batch) -> tuple[Tensor, Tensor]:
        """Noise prediction and log variance, each (B, C, H, W), that the network is to give."""
        noised = batch.noised
        drawn = self.drawn_labels(workspace, batch)
        if self.mixture == "draw":
            return frozen_prediction(workspace, noised, drawn)
        noise, log_variance = mixture_prediction(workspace, noised)
        if self.replacement == "posterior":
            return noise, log_variance

        # Erased rows take the frozen prediction of their replacement, null rows the mixture.
        replaced = torch.isin(noised.class_labels, torch.tensor(workspace.forget_classes, device=drawn.device))
        replaced = replaced[:, None, None, None]
        class_noise, class_log_variance = frozen_prediction(workspace, noised, drawn)
        return torch.where(replaced, class_noise, noise), torch.where(replaced, class_log_variance, log_variance)

    def drawn_labels(self, workspace: Workspace, batch: Batch) -> Tensor:
        """One retained label (B,) per sample: the replacement for erased rows, a posterior draw for the others."""
        noised = batch.noised
        probabilities = workspace.posterior.retained(noised, workspace.removed_classes).cpu()
        # The race of exponential variables that torch.multinomial runs, for the whole batch.
        times = torch.empty(batch.total, probabilities.shape[1], dtype=probabilities.dtype)
        times.exponential_(generator=batch.generator("posterior draw"))
        drawn = (probabilities / batch.rows_of(times)).argmax(dim=1).to(noised.class_labels.device)
        if self.replacement != "posterior":
            for class_label in workspace.forget_classes:
                replacement = self.replacement_of(workspace, class_label)
                drawn = torch.where(noised.class_labels == class_label, replacement, drawn)
        return drawn

    def replacement_of(self, workspace: Workspace, class_label: int) -> int:
        """The class that an erased label turns into."""
        if self.replacement == "class":
            return other_class(workspace, class_label)
        rows = label_table(workspace.reference.transformer).detach()
        retained = torch.tensor(workspace.retained_classes)
        return int(retained[(rows[retained] - rows[class_label]).norm(dim=1).argmin()])

    def masks(self, workspace: Workspace) -> PhaseMasks:
        """The weights with the largest forget gradient, when asked for; the null row is always among them."""
        mask = forget_gradient_mask(workspace, fraction=self.mask_fraction)
        return PhaseMasks(forget=with_null_row(workspace, mask))


def reverse_mean(schedule: NoiseSchedule, noise_pred: Tensor, noised: Noised) -> Tensor:
    """Mean of p(x_{t-1} | x_t) that a noise prediction implies, (B, C, H, W)."""
    x0 = schedule.predict_x0(noised.noisy_latents, noise_pred, noised.timesteps)
    return schedule.posterior_mean(x0, noised.noisy_latents, noised.timesteps)


def frozen_prediction(workspace: Workspace, noised: Noised, class_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Noise prediction and log variance of the original network under the given labels."""
    noise, variance = workspace.reference_output(noised, class_labels).chunk(2, dim=1)
    return noise, workspace.model.noise_schedule.model_log_variance(variance, noised.timesteps)


def mixture_prediction(workspace: Workspace, noised: Noised) -> tuple[Tensor, Tensor]:
    """e_r and log s2_r: the posterior mixture of the frozen predictions, its variance by moments."""
    retained, count = torch.tensor(workspace.retained_classes, device=noised.timesteps.device), len(noised.timesteps)
    shares = workspace.posterior.retained(noised, workspace.removed_classes)[:, retained].T[..., None, None, None]

    # Every retained label on every sample in one forward pass: (K * B, ...).
    tiled = Noised(*(tensor.repeat(len(retained), *[1] * (tensor.ndim - 1)) for tensor in vars(noised).values()))
    noise, log_variance = frozen_prediction(workspace, tiled, retained.repeat_interleave(count))
    mean = reverse_mean(workspace.model.noise_schedule, noise, tiled)
    noise, log_variance, mean = (tensor.unflatten(0, (len(retained), count)) for tensor in (noise, log_variance, mean))

    # Moments of the mixture, (B, C, H, W).
    mixed_mean = (shares * mean).sum(0)
    variance = (shares * (log_variance.exp() + (mean - mixed_mean).square())).sum(0)
    return (shares * noise).sum(0), variance.log()
