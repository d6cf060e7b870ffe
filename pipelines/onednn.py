"""Linear layers of frozen weights through oneDNN on an AMD processor: where images are drawn and Fisher diagonals made.

PyTorch multiplies float32 matrices by MKL, which uses half the width of such a processor with AVX-512. oneDNN, which
PyTorch has for convolutions and compiled models, uses all of it: the same float32 sums in another order.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FEWEST_TOKENS = 128  # of a batch; with fewer, laying out the weight for oneDNN costs more than it brings


class OneDNNLinear(TorchFunctionMode):
    """Within it, float32 linear layers on tokens are oneDNN's where that is faster; all else is as ever."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """``func`` itself, or the product that stands in for it."""
        if func is functional.linear and not kwargs and is_faster(*args):
            features, weight, bias = (*args, None)[:3]
            return FrozenLinear.apply(features, weight, bias)
        return func(*args, **(kwargs or {}))


class FrozenLinear(torch.autograd.Function):
    """A linear layer whose input alone has a gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Features (..., in) to (..., out)."""
        ctx.save_for_backward(weight)
        return product(features, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Gradient (..., out) to (..., in)."""
        (weight,) = ctx.saved_tensors
        return product(gradient, weight.T), None, None


def product(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Features (..., in) times a weight (out, in), by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")


def is_faster(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN computes a linear layer on tokens (B, T, in) sooner than PyTorch's own product."""
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    return (
        features.ndim == 3  # tokens; conditioning (B, C) has a row for each image only
        and features.shape[0] * features.shape[1] >= FEWEST_TOKENS
        and not (trained and torch.is_grad_enabled())
        and can_multiply(features, weight)
    )


def can_multiply(left: Tensor, right: Tensor) -> bool:
    """Whether ``product`` is there, and faster, for float32 matrices like these."""
    return (
        left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
        and is_wider()
    )


@cache
def is_wider() -> bool:
    """Whether MKL leaves half of this processor unused, and PyTorch has the product of its compiled models."""
    facts = Path("/proc/cpuinfo")
    is_amd = facts.exists() and "AuthenticAMD" in facts.read_text()
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
    return is_amd and wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")
