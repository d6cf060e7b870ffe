"""Masked, clipped optimizer steps of the two sides (DualOptim, arXiv 2504.15827, Algorithm 1).

With dual optimizers each side has its own AdamW, so the moments of one never see the gradients of the other. Masks are
hard: a step leaves every weight outside its mask as it was, whatever momentum or weight decay would have done to it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipelines.errors import UsageError

from .adamw import AdamW, EightBitAdamW, FullAdamW, PackedAdamW
from .config import EngineConfig

Gradients = list[Tensor]  # one tensor per parameter, in the order of the parameter dictionary
Side = Literal["forget", "retain", "both"]  # both: one step of a shared optimizer on the joined gradient


@dataclass(frozen=True, kw_only=True)
class PhaseMasks:
    """The saliency mask of each side: one bool per weight by parameter name, or None for a side without a mask.

    Hand the same object to both sides when they share a mask: that is recognised, and is the cheapest.
    """

    forget: dict[str, Tensor] | None = None
    retain: dict[str, Tensor] | None = None


def scheduled(peak: float, schedule: str, step: int, *, steps: int) -> float:
    """Value at outer step ``step`` (from 0): constant, or half a cosine from ``peak`` to 0 at ``steps``."""
    return peak * 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else peak


def loss_gradients(objective: Tensor, parameters: Sequence[nn.Parameter]) -> Gradients:
    """Gradients of ``objective`` () in these parameters alone; zeros for one that it does not reach.

    They are tensors of their own in the memory layout of the parameters, which the fused optimizer relies on.
    """
    for parameter in parameters:
        parameter.grad = None
    objective.backward(inputs=list(parameters))
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


class PhaseStepper:
    """The optimizers and masks of both sides, and the step that a phase takes with its gradients."""

    def __init__(self, parameters: dict[str, nn.Parameter], config: EngineConfig, *, masks: PhaseMasks) -> None:
        """Raises ``UsageError`` for a mask of another model."""
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.config = config

        # Masks stay on the device as 0/1 in the dtype of the weights: the fastest form to multiply with.
        same = masks.forget is masks.retain
        forget = resident_mask(masks.forget, parameters, side="forget")
        retain = forget if same else resident_mask(masks.retain, parameters, side="retain")
        self.optimizers = make_optimizers(parameters, config, forget_mask=forget)
        if config.forget_moments == "packed":
            forget = None  # the packed optimizer knows the places and masks by them
        both = forget if same else None
        if takes_one_step(config) and not same and forget is not None and retain is not None:
            both = [torch.maximum(*pair) for pair in zip(forget, retain, strict=True)]
        self.masks: dict[Side, list[Tensor] | None] = {"forget": forget, "retain": retain, "both": both}

        # Masked gradients alone freeze a weight unless decay, or momentum from the other side, still moves it.
        foreign_momentum = config.optimizers == "shared" and not takes_one_step(config) and not same
        self.restores = config.weight_decay > 0 or foreign_momentum
        self.backup: list[Tensor] = []

    def learning_rate(self, side: Side, step: int) -> float:
        """Learning rate of a side at an outer step; ``both`` takes the forget side's, which equals the other."""
        config = self.config
        if side == "retain":
            return scheduled(config.retain_learning_rate, config.retain_lr_schedule, step, steps=config.steps)
        return scheduled(config.forget_learning_rate, config.forget_lr_schedule, step, steps=config.steps)

    def condition(self, side: Side, gradients: Gradients) -> tuple[Tensor, Tensor]:
        """Mask and clip ``gradients`` in place.

        Returns the norm () that the clip saw and whether it clipped (), both on the device.
        """
        norm = self.apply_mask(side, gradients)
        return norm, self.clip(side, gradients, norm)

    def apply_mask(self, side: Side, gradients: Gradients) -> Tensor:
        """Mask ``gradients`` in place; returns their norm () before or after it, as ``clip_order`` says."""
        mask, packed = self.masks[side], self.optimizers.get(side)
        raw_norm = torch.nn.utils.get_total_norm(gradients) if self.config.clip_order == "clip-mask" else None
        if isinstance(packed, PackedAdamW):
            packed.mask(gradients)
        elif mask is not None:
            torch._foreach_mul_(gradients, mask)
        return torch.nn.utils.get_total_norm(gradients) if raw_norm is None else raw_norm

    def clip(self, side: Side, gradients: Gradients, norm: Tensor) -> Tensor:
        """Scale ``gradients`` of norm ``norm`` () in place to the side's limit; returns whether that was needed ()."""
        limit = self.config.retain_clip if side == "retain" else self.config.forget_clip
        if limit == 0:
            return torch.zeros_like(norm, dtype=torch.bool)
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm > limit

    def step(self, side: Side, gradients: Gradients, *, step: int, measure: bool) -> Tensor | None:
        """Take one optimizer step with conditioned gradients; returns the norm () of the change if ``measure``."""
        optimizer = self.optimizers.get("shared") or self.optimizers[side]
        before = [each.detach().clone() for each in self.parameters] if measure else None

        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad(), self.frozen_outside(side):
            optimizer.step(self.learning_rate(side, step))
        for parameter in self.parameters:
            parameter.grad = None

        if before is None:
            return None
        with torch.no_grad():
            torch._foreach_sub_(before, self.parameters)
            return torch.nn.utils.get_total_norm(before)

    @contextmanager
    def frozen_outside(self, side: Side) -> Iterator[None]:
        """Put back the weights outside the side's mask, bit for bit, where an optimizer step could have moved them."""
        mask = self.masks[side]
        if mask is None or not self.restores:
            yield
            return
        self.backup = self.backup or [torch.empty_like(each) for each in self.parameters]
        torch._foreach_copy_(self.backup, self.parameters)
        yield
        # lerp is exact at weights 0 and 1, save the sign of a zero, and on a CPU five times as fast as where.
        for parameter, before, inside in zip(self.parameters, self.backup, mask, strict=True):
            torch.lerp(before, parameter, inside, out=parameter)

    def state_tensors(self) -> dict[str, Tensor]:
        """Optimizer states by ``optimizer.entry/parameter``, e.g. ``forget.exp_avg/blocks.0.weight``."""
        return {
            f"{kind}.{name}": value
            for kind, optimizer in self.optimizers.items()
            for name, value in optimizer.state_tensors().items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state_tensors`` gave (``MissingError`` when it belongs to other parameters)."""
        for kind, optimizer in self.optimizers.items():
            start = f"{kind}."
            mine = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            optimizer.load_state_tensors(mine)


def make_optimizers(
    parameters: dict[str, nn.Parameter], config: EngineConfig, *, forget_mask: Sequence[Tensor] | None
) -> dict[str, AdamW]:
    """One AdamW for each name under which its state is saved: ``shared``, or ``forget`` and ``retain``."""
    decay = config.weight_decay
    if config.optimizers == "shared":
        return {"shared": FullAdamW(parameters, weight_decay=decay)}
    kind = EightBitAdamW if config.retain_moments == "8bit" else FullAdamW
    retain = kind(parameters, weight_decay=decay)
    if config.forget_moments == "full":
        return {"forget": FullAdamW(parameters, weight_decay=decay), "retain": retain}
    if forget_mask is None:
        raise UsageError("--forget-moments packed has no effect: this method has no saliency mask in the forget phase")
    return {"forget": PackedAdamW(parameters, mask=forget_mask), "retain": retain}


def takes_one_step(config: EngineConfig) -> bool:
    """Whether an outer step is one step of a shared optimizer."""
    return config.optimizers == "shared" and config.update != "alternate"


def resident_mask(
    mask: dict[str, Tensor] | None, parameters: dict[str, nn.Parameter], *, side: str
) -> list[Tensor] | None:
    """The mask as 0/1 on the device and in the dtype of the parameters (``UsageError`` when it is of another model)."""
    if mask is None:
        return None
    shapes = {name: each.shape for name, each in parameters.items()}
    if shapes != {name: each.shape for name, each in mask.items()}:
        odd = sorted(set(shapes) ^ set(mask)) or [name for name in shapes if shapes[name] != mask[name].shape]
        raise UsageError(f"the {side} mask is of another model: {odd[0]!r} is in one only or differs in shape")
    return [torch.empty_like(each).detach().copy_(mask[name]) for name, each in parameters.items()]
