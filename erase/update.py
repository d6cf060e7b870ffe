"""Update rules: how the gradients of the two sides become steps (DualOptim, arXiv 2504.15827, Algorithm 1).

``alternate`` takes the phases in turn, each gradient at the weights that the last phase left. ``joint`` steps once on
the gradient of the summed loss, clipped as a whole. ``simultaneous`` takes both gradients at the same weights, masks
and clips each, then lets each optimizer of a dual pair add its own update, or joins the gradients for one step of a
shared one. Of a dual pair the second decays the weights that the first has left, a difference of order lr^2 decay.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.ranks import num_ranks, sum_over_ranks

from .config import EngineConfig
from .label_attackers import LabelAttackers
from .optimizers import Gradients, PhaseStepper, Side, loss_gradients, scheduled
from .task import Loss, Task
from .unroll import gradients_after_relearning


@dataclass(frozen=True)
class Phase:
    """Readings of one phase, each () on the device of the weights."""

    loss: Loss
    norm: Tensor  # of the gradient, as the clip saw it
    clipped: Tensor  # bool
    update_norm: Tensor | None  # of the change of the weights; None unless measured


@dataclass(frozen=True)
class OuterStep:
    """Readings of one outer step."""

    forget: list[Phase]
    retain: list[Phase]
    cosine: Tensor | None  # () between the last gradients of the two sides as applied; None unless measured


class Updater:
    """Runs the outer steps of a task by the update rule of its configuration."""

    def __init__(self, task: Task, stepper: PhaseStepper, config: EngineConfig, *, seed: int) -> None:
        self.task = task
        self.stepper = stepper
        self.config = config
        self.seed = seed
        attacks_label = config.robust and config.robust_target != "weights"
        self.attackers = LabelAttackers(task, config, seed=seed) if attacks_label else None

    def run(self, step: int, *, measure: bool) -> OuterStep:
        """Take outer step ``step``; ``measure`` adds the readings that need copies of weights or gradients."""
        rules = {"alternate": self.alternate, "joint": self.joint, "simultaneous": self.simultaneous}
        return rules[self.config.update](step, measure=measure)

    def forget_gradients(self, step: int, phase: int) -> tuple[Loss, Gradients]:
        """Loss and weighted gradient of one forget phase, and under a simulated attack at the steps that have one."""
        config = self.config
        batch = self.task.forget_batch(step, phase)
        weight = scheduled(config.forget_weight, config.forget_weight_schedule, step, steps=config.steps)
        loss = self.task.forget_loss(batch)
        gradients = loss_gradients(weight * loss.objective, self.stepper.parameters)
        if config.robust and step % config.robust_every == 0:
            torch._foreach_add_(gradients, self.attacked_gradients(batch, step=step, phase=phase, weight=weight))
        return of_whole_batch(loss, gradients)

    def attacked_gradients(self, batch: Any, *, step: int, phase: int, weight: float) -> Gradients:
        """The weighted forget gradient after the simulated attack whose turn it is."""
        if self.attackers is not None and (self.config.robust_target == "label" or is_odd_attack(self.config, step)):
            return self.attackers.gradients(batch, step=step, phase=phase, weight=weight)
        return gradients_after_relearning(
            self.task, batch, config=self.config, seed=self.seed, step=step, phase=phase, weight=weight
        )

    def retain_gradients(self, step: int, phase: int) -> tuple[Loss, Gradients]:
        """Loss and weighted gradient of one retain phase."""
        loss = self.task.retain_loss(self.task.retain_batch(step, phase))
        return of_whole_batch(loss, loss_gradients(self.config.retain_weight * loss.objective, self.stepper.parameters))

    def alternate(self, step: int, *, measure: bool) -> OuterStep:
        """Forget phases, then retain phases, each a step of its own."""
        forget = [self.phase("forget", step, number, measure=measure) for number in range(self.config.forget_steps)]
        retain = [self.phase("retain", step, number, measure=measure) for number in range(self.config.retain_steps)]
        angle = cosine(forget[-1][1], retain[-1][1]) if measure else None
        return OuterStep([phase for phase, _ in forget], [phase for phase, _ in retain], angle)

    def phase(self, side: Side, step: int, number: int, *, measure: bool) -> tuple[Phase, Gradients]:
        """One phase of one side: loss, backward, mask, clip, step; also the gradient as applied if ``measure``."""
        loss, gradients = (self.forget_gradients if side == "forget" else self.retain_gradients)(step, number)
        norm, clipped = self.stepper.condition(side, gradients)
        moved = self.stepper.step(side, gradients, step=step, measure=measure)
        return Phase(loss_values(loss), norm, clipped, moved), gradients if measure else []

    def joint(self, step: int, *, measure: bool) -> OuterStep:
        """One step on the masked gradient of the summed loss; its clip and its update are those of both sides."""
        forget_loss, forget = self.forget_gradients(step, 0)
        retain_loss, retain = self.retain_gradients(step, 0)

        # The clip acts on the sum, and sees it before or after the masks.
        masks_first = self.config.clip_order == "mask-clip"
        norm = None if masks_first else torch.nn.utils.get_total_norm(torch._foreach_add(forget, retain))
        forget_norm = self.stepper.apply_mask("forget", forget)
        retain_norm = self.stepper.apply_mask("retain", retain)
        angle = cosine(forget, retain) if measure else None
        torch._foreach_add_(forget, retain)
        norm = torch.nn.utils.get_total_norm(forget) if masks_first else norm
        clipped = self.stepper.clip("both", forget, norm)

        moved = self.stepper.step("both", forget, step=step, measure=measure)
        return OuterStep(
            [Phase(loss_values(forget_loss), forget_norm, clipped, moved)],
            [Phase(loss_values(retain_loss), retain_norm, clipped, moved)],
            angle,
        )

    def simultaneous(self, step: int, *, measure: bool) -> OuterStep:
        """Both gradients at the same weights; then two updates that add up, or one on the combined gradient."""
        stepper = self.stepper
        forget_loss, forget = self.forget_gradients(step, 0)
        retain_loss, retain = self.retain_gradients(step, 0)
        forget_readings = stepper.condition("forget", forget)
        retain_readings = stepper.condition("retain", retain)
        angle = cosine(forget, retain) if measure else None

        if self.config.optimizers == "dual":
            forget_moved = stepper.step("forget", forget, step=step, measure=measure)
            retain_moved = stepper.step("retain", retain, step=step, measure=measure)
        else:
            masks = (stepper.masks["forget"], stepper.masks["retain"])
            total = combine_gradients(forget, retain, rule=self.config.combine, masks=masks)
            forget_moved = retain_moved = stepper.step("both", total, step=step, measure=measure)
        return OuterStep(
            [Phase(loss_values(forget_loss), *forget_readings, forget_moved)],
            [Phase(loss_values(retain_loss), *retain_readings, retain_moved)],
            angle,
        )


def is_odd_attack(config: EngineConfig, step: int) -> bool:
    """Whether the attack of an outer step is the second, fourth, ... of the run; both kinds of attack take turns."""
    return step // config.robust_every % 2 == 1


def combine_gradients(
    forget: Gradients, retain: Gradients, *, rule: str, masks: tuple[list[Tensor] | None, list[Tensor] | None]
) -> Gradients:
    """Join two masked gradients for one step.

    ``sum`` adds them. ``pcgrad`` (arXiv 2001.06782, Algorithm 1) first takes from each its component along the other
    where the two conflict. ``orthogonal`` takes from the forget gradient its component along the retain gradient, be it
    for or against, and leaves the retain gradient whole. A projection stays within the mask of the side it changes.
    """
    if rule == "sum":
        return torch._foreach_add(forget, retain)
    new_forget = without_component(forget, retain, mask=masks[0], only_conflict=rule == "pcgrad")
    if rule == "pcgrad":
        retain = without_component(retain, forget, mask=masks[1], only_conflict=True)
    return torch._foreach_add(new_forget, retain)


def without_component(
    gradients: Gradients, other: Gradients, *, mask: list[Tensor] | None, only_conflict: bool
) -> Gradients:
    """``gradients`` minus their projection on ``other`` within ``mask``; ``only_conflict``: at obtuse angles only."""
    along = other if mask is None else torch._foreach_mul(other, mask)
    scale = inner(gradients, along) / inner(along, along).clamp(min=torch.finfo(along[0].dtype).tiny)
    if only_conflict:
        scale = scale.clamp(max=0)
    return torch._foreach_sub(gradients, torch._foreach_mul(along, scale))


def inner(left: Gradients, right: Gradients) -> Tensor:
    """Inner product () over all parameters together."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()


def cosine(left: Gradients, right: Gradients) -> Tensor:
    """Cosine () of the angle between two gradients over all parameters together; 0 when one of them is zero."""
    norms = torch.nn.utils.get_total_norm(left) * torch.nn.utils.get_total_norm(right)
    return inner(left, right) / norms.clamp(min=torch.finfo(norms.dtype).tiny)


def of_whole_batch(loss: Loss, gradients: Gradients) -> tuple[Loss, Gradients]:
    """Loss and gradient of a batch from what each rank's part contributes to them."""
    if num_ranks() == 1:
        return loss, gradients
    values = torch.stack([loss.objective.detach(), loss.denoising.detach()])
    sum_over_ranks([values, *gradients])
    return Loss(*values), gradients


def loss_values(loss: Loss) -> Loss:
    """The loss without its graph, so that readings keep no activations alive."""
    return Loss(loss.objective.detach(), loss.denoising.detach())
