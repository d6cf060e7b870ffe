"""AdamW in the forms that differ in where its moments live: everywhere, at the weights of a mask, or in eight bits.

All read the gradients from the parameters' ``grad`` and have the published betas (0.9, 0.999).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pipelines.errors import MissingError

BETAS = (0.9, 0.999)
MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW(Protocol):
    """What a phase needs of its optimizer."""

    def step(self, learning_rate: float) -> None:
        """Take one step with the parameters' gradients."""
        ...

    def state_tensors(self) -> dict[str, Tensor]:
        """The state by ``entry/parameter``, e.g. ``exp_avg/blocks.0.weight``; empty before the first step."""
        ...

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state_tensors`` gave (``MissingError`` when it belongs to other parameters)."""
        ...


class FullAdamW:
    """PyTorch's AdamW, fused where the device has the kernel."""

    def __init__(self, parameters: dict[str, nn.Parameter], *, weight_decay: float) -> None:
        self.parameters = parameters
        weights = list(parameters.values())
        self.optimizer = torch.optim.AdamW(
            weights, lr=0.0, betas=BETAS, weight_decay=weight_decay, fused=can_fuse(weights)
        )

    def step(self, learning_rate: float) -> None:
        """See ``AdamW``."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def state_tensors(self) -> dict[str, Tensor]:
        """See ``AdamW``."""
        state = self.optimizer.state
        return {
            f"{entry}/{name}": value
            for name, parameter in self.parameters.items()
            for entry, value in state[parameter].items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See ``AdamW``."""
        for name, parameter in self.parameters.items():
            saved = saved_entries(tensors, name, {"step": torch.Size(), **dict.fromkeys(MOMENTS, parameter.shape)})
            # A fused kernel counts its steps on its own device, the others on the CPU.
            count = saved.pop("step").to(parameter.device if can_fuse([parameter]) else "cpu", copy=True)
            layout = {entry: torch.empty_like(parameter, dtype=value.dtype).detach() for entry, value in saved.items()}
            moments = {entry: layout[entry].copy_(value) for entry, value in saved.items()}
            self.optimizer.state[parameter] = {"step": count, **moments}


class PackedAdamW:
    """AdamW that keeps moments for the weights inside a mask alone: the same step for them, none for the others.

    For each of them it holds two moments and the place of the weight, 12 bytes in float32; without weight decay the
    weights outside a mask would not move anyway.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], *, mask: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.places = [each.flatten().nonzero()[:, 0].to(torch.int32) for each in mask]
        self.packed = {
            name: nn.Parameter(parameter.detach().new_empty(len(places)))
            for (name, parameter), places in zip(parameters.items(), self.places, strict=True)
        }
        self.inner = FullAdamW(self.packed, weight_decay=0.0)

    def mask(self, gradients: Sequence[Tensor]) -> None:
        """Set gradients to zero outside the mask, in place."""
        for gradient, places in zip(gradients, self.places, strict=True):
            kept = gradient.take(places.long())
            gradient.zero_().put_(places.long(), kept)

    def step(self, learning_rate: float) -> None:
        """See ``AdamW``; packed copies of weights and gradients exist during the step only."""
        members = list(zip(self.parameters.values(), self.packed.values(), self.places, strict=True))
        for parameter, packed, places in members:
            packed.data = parameter.detach().take(places.long())
            packed.grad = parameter.grad.take(places.long())
        self.inner.step(learning_rate)
        for parameter, packed, places in members:
            parameter.detach().put_(places.long(), packed.detach())
            packed.grad, packed.data = None, packed.data.new_empty(len(places)).resize_(0)

    def state_tensors(self) -> dict[str, Tensor]:
        """See ``AdamW``; moments are (number of weights in the mask,)."""
        return self.inner.state_tensors()

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See ``AdamW``."""
        for packed, places in zip(self.packed.values(), self.places, strict=True):
            packed.data = packed.data.new_empty(len(places))
        self.inner.load_state_tensors(tensors)


class EightBitAdamW:
    """AdamW with moments in blocks of 8-bit codes (arXiv 2110.02861), as torchao has it: a quarter of the memory.

    Tensors of fewer than 4,096 weights keep float32 moments.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], *, weight_decay: float) -> None:
        """Raises ``MissingError`` without the optional package."""
        try:
            from torchao.optim import AdamW8bit
        except ImportError as error:
            raise MissingError("--retain-moments 8bit needs torchao: pip install 'dit-erase[8bit]'") from error
        self.parameters = parameters
        self.optimizer = AdamW8bit(list(parameters.values()), lr=0.0, betas=BETAS, weight_decay=weight_decay)

    def step(self, learning_rate: float) -> None:
        """See ``AdamW``; a GPU runs the compiled step, a CPU the same operations one by one."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(learning_rate)
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters.values())
        with torch.compiler.set_stance("force_eager" if on_cpu else "default"):
            self.optimizer.step()

    def state_tensors(self) -> dict[str, Tensor]:
        """See ``AdamW``; a moment in codes is saved as its codes and the scale of each block."""
        state = self.optimizer.state
        found = {}
        for name, parameter in self.parameters.items():
            for entry, value in state[parameter].items():
                parts = parts_of(value)
                found |= {f"{entry}{part}/{name}": tensor for part, tensor in parts.items()}
        return found

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See ``AdamW``."""
        # A step without gradient at learning rate 0 makes empty states and leaves the weights as they are.
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        self.step(0.0)
        for name, parameter in self.parameters.items():
            parameter.grad = None
            for entry, value in self.optimizer.state[parameter].items():
                for part, tensor in parts_of(value).items():
                    tensor.copy_(saved_entries(tensors, name, {entry + part: tensor.shape})[entry + part])


def parts_of(value: Tensor) -> dict[str, Tensor]:
    """The plain tensors that a state consists of, by suffix."""
    if not hasattr(value, "codes"):
        return {"": value}
    return {".codes": value.codes, ".scale": value.scale}


def saved_entries(tensors: dict[str, Tensor], name: str, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Saved tensors of one parameter by entry (``MissingError`` when one is absent or of another shape)."""
    saved = {entry: tensors.get(f"{entry}/{name}") for entry in shapes}
    for entry, value in saved.items():
        if value is None or value.shape != shapes[entry]:
            raise MissingError(f"the checkpoint is of another model: no {entry} of {name!r} in its shape")
    return saved


def can_fuse(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether PyTorch has fused optimizers for these parameters."""
    return all(each.device.type in ("cpu", "cuda") and each.is_floating_point() for each in parameters)
