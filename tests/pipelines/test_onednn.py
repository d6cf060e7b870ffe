"""Linear layers through oneDNN: the same numbers, where it pays and nowhere else."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines import onednn
from pipelines.model import DiT
from pipelines.onednn import FEWEST_TOKENS, OneDNNLinear, is_wider
from pipelines.sampler import SamplerSettings, sample_latents

wide = pytest.mark.skipif(not is_wider(), reason="needs an AMD processor with AVX-512")


class Seen(TorchDispatchMode):
    """Counts the products of oneDNN."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.mkldnn._linear_pointwise.default
        return func(*args, **(kwargs or {}))


def products(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[int, Tensor]:
    """How many of one linear layer's products are oneDNN's, and its output."""
    with OneDNNLinear(), Seen() as seen:
        output = functional.linear(features, weight, bias)
    return seen.count, output


@wide
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_product_is_exact_to_rounding(with_bias: bool) -> None:
    torch.manual_seed(0)
    features, weight = torch.randn(8, 16, 96), torch.randn(40, 96)
    bias = torch.randn(40) if with_bias else None
    with torch.no_grad():
        count, found = products(features, weight, bias)
    exact = features.double() @ weight.double().T + (bias.double() if with_bias else 0)
    assert count == 1 and found.shape == (8, 16, 40)
    assert (found - exact).abs().max() / exact.abs().max() < 1e-6


@wide
def test_only_tokens_of_a_batch_without_gradients_in_float32() -> None:
    torch.manual_seed(0)
    tokens, weight = torch.randn(FEWEST_TOKENS // 16, 16, 8), torch.randn(8, 8)
    with torch.no_grad():
        assert products(tokens, weight)[0] == 1
        assert products(tokens[1:], weight)[0] == 0
        assert products(tokens.flatten(0, 1), weight)[0] == 0
        assert products(tokens.double(), weight.double())[0] == 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert products(tokens, weight)[0] == 0
        with torch.backends.mkldnn.flags(enabled=False):
            assert products(tokens, weight)[0] == 0
    assert products(tokens, weight.requires_grad_())[0] == 0


@wide
def test_frozen_weights_pass_gradients_to_their_input() -> None:
    """As the layer itself does, weights untouched."""
    torch.manual_seed(0)
    tokens, weight, bias = torch.randn(FEWEST_TOKENS // 16, 16, 8), torch.randn(24, 8), torch.randn(24)
    tokens.requires_grad_()
    upstream = torch.randn(FEWEST_TOKENS // 16, 16, 24)
    count, output = products(tokens, weight, bias)
    (found,) = torch.autograd.grad(output, tokens, upstream)
    (expected,) = torch.autograd.grad(functional.linear(tokens, weight, bias), tokens, upstream)
    assert count == 1 and output.requires_grad
    torch.testing.assert_close(found, expected)


def test_another_processor_multiplies_as_ever(monkeypatch) -> None:
    torch.manual_seed(0)
    tokens, weight = torch.randn(FEWEST_TOKENS // 16, 16, 8), torch.randn(8, 8)
    monkeypatch.setattr(onednn, "is_wider", lambda: False)
    with torch.no_grad():
        count, found = products(tokens, weight)
        assert count == 0 and torch.equal(found, functional.linear(tokens, weight))


@wide
def test_images_are_drawn_through_it(tiny: DiT) -> None:
    """Of a batch of images, whose latents are those of single images to rounding."""
    per_image = (tiny.latent_shape[1] // tiny.transformer.config.patch_size) ** 2
    seeds = list(range(-(-FEWEST_TOKENS // per_image)))
    labels, settings = torch.tensor(seeds) % tiny.num_classes, SamplerSettings(num_inference_steps=4)
    with Seen() as seen:
        together = sample_latents(tiny, labels, seeds, settings)
    assert seen.count
    with Seen() as seen:
        alone = torch.cat([sample_latents(tiny, labels[[each]], [each], settings) for each in seeds])
    assert not seen.count
    assert (together - alone).norm() / alone.norm() < 1e-5
