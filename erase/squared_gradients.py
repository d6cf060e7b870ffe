"""Sums of squared per-sample gradients for a whole batch from one backward pass, exact up to rounding.

A layer y = W x whose inputs are a_b (T, in) and whose output gradients are d_b (T, out) gives sample b the weight
gradient d_b^T a_b and the bias gradient sum_t d_b. Where T is 1 the squares need no gradient at all: they add up to
(d * d)^T (a * a) over the batch. Patches are a linear layer after unfolding, and a label touches its own row alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from pipelines.onednn import FEWEST_TOKENS, OneDNNLinear, can_multiply, product
from pipelines.ranks import part_of, sum_over_ranks

from .saliency import Fisher

LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding)
GRADIENTS_AT_ONCE = {"cpu": 2**20}  # weights of per-sample gradients that fit into a cache
GRADIENTS_ON_A_GPU = 2**26


def batched_fisher_diagonal(
    network: nn.Module,
    losses: Callable[[Sequence[int]], Tensor],
    num_samples: int,
    *,
    at_once: int,
    progress: Callable[[int], None],
) -> Fisher:
    """``erase.saliency.fisher_diagonal`` from passes of ``at_once`` samples.

    ``losses(numbers)`` gives each of these samples its own loss (B,) from one pass over the network; ``progress`` is
    told the number of samples that this rank has done.
    """
    squares, own = SquaredGradients(network), range(num_samples)[part_of(num_samples)]
    for first in range(0, len(own), at_once):
        squares.add(partial(losses, own[first : first + at_once]))
        progress(min(first + at_once, len(own)))
    total = list(squares.totals.values())
    sum_over_ranks(total)
    torch._foreach_div_(total, num_samples)
    return squares.totals


class SquaredGradients:
    """Adds up squared per-sample gradients of a network of linear layers, patch convolutions and embeddings."""

    def __init__(self, network: nn.Module) -> None:
        """Raises ``ValueError`` for a network with a trainable weight outside such layers; see ``can_square``."""
        if not can_square(network):
            raise ValueError("per-sample squares need every weight in a linear layer, a convolution or an embedding")
        self.network = network
        self.names = {parameter: name for name, parameter in network.named_parameters()}
        self.totals = {
            name: torch.zeros_like(parameter, dtype=torch.float32).detach() for parameter, name in self.names.items()
        }
        self.roots: list[Tensor] = []  # outputs that no other output leads to: where the backward pass ends
        self.seen: set[nn.Module] = set()

    def add(self, losses: Callable[[], Tensor]) -> None:
        """Add the squares of a batch; ``losses`` runs the network once and returns each sample's own loss (B,)."""
        self.roots, self.seen = [], set()
        with self.watched():
            torch.autograd.grad(losses().sum(), self.roots)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, layers report their inputs and output gradients, and no weight has a gradient of its own."""
        layers = {each for each in self.network.modules() if isinstance(each, LAYERS)}
        hooks = [each.register_forward_hook(self.note) for each in layers]
        trained = [each for each in self.names if each.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            with OneDNNLinear():
                yield
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in trained:
                parameter.requires_grad_(True)

    def note(self, layer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        """Have the layer's output bring its gradient here; a sample's gradients of two uses would need to be added."""
        assert layer not in self.seen, "a layer that is used twice in one pass"
        self.seen.add(layer)
        if not output.requires_grad:
            output = output.detach().requires_grad_()
            self.roots.append(output)
        output.register_hook(partial(self.collect, layer, arguments[0].detach()))
        return output

    def collect(self, layer: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Add a layer's squares from its inputs (B, ...) and its output gradient (B, ...)."""
        total = self.totals[self.names[layer.weight]]
        if isinstance(layer, nn.Embedding):
            total.index_add_(0, inputs, gradient.float().square())
            return

        # Patches and vectors both become rows: inputs (B, T, in), gradient (B, T, out).
        if isinstance(layer, nn.Conv2d):
            shape = {"kernel_size": layer.kernel_size, "padding": layer.padding, "stride": layer.stride}
            inputs, gradient = unfold(inputs, **shape).mT, gradient.flatten(2).mT
        inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1]).to(gradient.dtype)
        gradient = gradient.reshape(len(gradient), -1, gradient.shape[-1])

        add_squared_products(total.flatten(1), gradient, inputs)
        if layer.bias is not None:
            self.totals[self.names[layer.bias]].add_(gradient.float().sum(1).square().sum(0))


def add_squared_products(total: Tensor, gradient: Tensor, inputs: Tensor) -> None:
    """Add sum_b (d_b^T a_b)^2 to ``total`` (out, in) for d (B, T, out) and a (B, T, in)."""
    if inputs.shape[1] == 1:
        total.addmm_(gradient[:, 0].float().square().T, inputs[:, 0].float().square())
        return
    if inputs.shape[1] >= FEWEST_TOKENS and can_multiply(gradient, inputs):
        for single in map(product, gradient.mT, inputs.mT):
            total.addcmul_(single, single)
        return
    at_once = max(1, GRADIENTS_AT_ONCE.get(total.device.type, GRADIENTS_ON_A_GPU) // total.numel())
    for some_gradients, some_inputs in zip(gradient.split(at_once), inputs.split(at_once), strict=True):
        products = torch.bmm(some_gradients.mT, some_inputs).float()
        total.add_(products.square_().sum(0)) if len(products) > 1 else total.addcmul_(products[0], products[0])


def can_square(network: nn.Module) -> bool:
    """Whether every trainable weight is in one layer alone, and that layer's per-sample gradient is one product.

    A layer that a pass uses more than once is found out in the pass itself.
    """
    uses, covered = Counter(), set()
    for layer in network.modules():
        own = [each for each in layer.parameters(recurse=False) if each.requires_grad]
        uses.update(own)
        covered.update(own if has_rule(layer) else ())
    return all(count == 1 and parameter in covered for parameter, count in uses.items())


def has_rule(layer: nn.Module) -> bool:
    """Whether a layer is one of ``LAYERS`` in its plain form."""
    if isinstance(layer, nn.Conv2d):
        padded = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return padded and (layer.groups, layer.dilation) == (1, (1, 1))
    if isinstance(layer, nn.Embedding):
        return layer.padding_idx is None and layer.max_norm is None
    return isinstance(layer, nn.Linear)
