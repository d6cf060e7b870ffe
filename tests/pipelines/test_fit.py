"""The training loop: learning rate and averaged weights in closed form, resuming bit for bit, divergence."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.errors import DivergedError
from pipelines.pretrain.fit import fit
from pipelines.randomness import generator


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def network() -> nn.Module:
    """A small network with weights of several shapes and running statistics."""
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    draws = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=draws)
    return network


def loss_of(network: nn.Module, *, stop_at: int = -1) -> Callable[[int], Tensor]:
    """A regression whose batch is a function of the step; raises at ``stop_at``."""

    def loss(step: int) -> Tensor:
        if step == stop_at:
            raise Interrupted
        inputs = torch.randn(16, 5, generator=generator(0, "inputs", step))
        return (network(inputs) - inputs[:, :2].sin()).square().mean()

    return loss


@pytest.mark.parametrize("ema_half_life", [0.0, 6.0])
@pytest.mark.parametrize("stop_at", [3, 10, 20, 27])
def test_resuming_is_bit_identical(network: nn.Module, tmp_path: Path, ema_half_life: float, stop_at: int) -> None:
    """Before, at, just after and between checkpoints; weights and running statistics."""
    settings = {"steps": 30, "learning_rate": 0.01, "weight_decay": 0.05, "ema_half_life": ema_half_life}
    whole, resumed, anew = network, copy.deepcopy(network), copy.deepcopy(network)
    fit(whole, loss_of(whole), **settings)
    kept = {"checkpoint_path": tmp_path / "new" / "checkpoint", "checkpoint_every": 10}
    with pytest.raises(Interrupted):
        fit(resumed, loss_of(resumed, stop_at=stop_at), **settings, **kept)

    steps = []
    loss = loss_of(anew)
    fit(anew, lambda step: steps.append(step) or loss(step), **settings, **kept)
    assert steps == list(range(stop_at // 10 * 10, 30))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(anew.state_dict()[name], tensor)


def test_training_learns(network: nn.Module) -> None:
    loss = loss_of(network)
    before = loss(0).item()
    fit(network, loss, steps=300, learning_rate=0.02)
    assert loss(0).item() < before / 10


@pytest.mark.parametrize("steps", [1, 2, 20, 60])
def test_learning_rate(steps: int) -> None:
    """With a constant gradient Adam moves by the learning rate: a twentieth of warm-up, then a cosine to 1 %."""
    line, places = nn.Linear(1, 1, bias=False), []

    def loss(step: int) -> Tensor:
        places.append(line.weight.item())
        return line.weight.sum()

    line.weight.data.zero_()
    fit(line, loss, steps=steps, learning_rate=0.1)
    places.append(line.weight.item())
    warmup = max(1, steps // 20)
    expected = [0.1 * (step + (1 - step / warmup)) / warmup for step in range(warmup)]
    angles = [math.pi * step / (steps - warmup) for step in range(steps - warmup)]
    expected += [0.001 + 0.099 * (1 + math.cos(angle)) / 2 for angle in angles]
    moved = [before - after for before, after in pairwise(places)]
    assert moved == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_averaged_weights(network: nn.Module) -> None:
    """The recursion of the average over the weights after each step, its half-life growing to the full one."""
    seen: list[list[Tensor]] = []
    loss, twin = loss_of(network), copy.deepcopy(network)

    def watched(step: int) -> Tensor:
        seen.append([parameter.detach().clone() for parameter in network.parameters()])
        return loss(step)

    fit(network, watched, steps=40, learning_rate=0.01, ema_half_life=3.0)
    fit(twin, loss_of(twin), steps=40, learning_rate=0.01)
    seen.append([parameter.detach() for parameter in twin.parameters()])
    mean = [weight.double() for weight in seen[0]]
    for step, weights in enumerate(seen[1:]):
        decay = 0.5 ** (1 / min(3.0, 1 + step / 10))
        mean = [decay * old + (1 - decay) * new.double() for old, new in zip(mean, weights, strict=True)]
    for expected, found, last in zip(mean, network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(found, last, rtol=1e-4, atol=1e-6)


def test_averaging_keeps_running_statistics(network: nn.Module) -> None:
    """They are those of the trained network: the averaged copy never sees a batch."""
    twin = copy.deepcopy(network)
    fit(network, loss_of(network), steps=20, learning_rate=0.01, ema_half_life=3.0)
    fit(twin, loss_of(twin), steps=20, learning_rate=0.01)
    assert torch.equal(network[1].running_mean, twin[1].running_mean)
    assert network[1].running_mean.abs().max() > 0.1


def test_gradients_are_clipped() -> None:
    """One gradient of a million among ones: cut to length one, it leaves the path of equal steps as it was."""
    ends = []
    for outlier in (1.0, 1e6):
        line = nn.Linear(1, 1, bias=False)
        line.weight.data.zero_()
        factors = [1.0, 1.0, outlier, 1.0, 1.0]
        fit(line, lambda step, line=line, own=factors: own[step] * line.weight.sum(), steps=5, learning_rate=0.01)
        ends.append(line.weight.item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-5) and ends[0] < -0.01


def test_divergence_is_reported_and_never_kept(network: nn.Module, tmp_path: Path) -> None:
    """The checkpoint stays the last good one, so the same command does not go on from lost weights."""
    loss, path = loss_of(network), tmp_path / "checkpoint"

    def diverging(step: int) -> Tensor:
        return loss(step) * (math.nan if step >= 12 else 1)

    with pytest.raises(DivergedError, match="the loss of transformer is nan"):
        fit(network, diverging, steps=40, learning_rate=0.01, checkpoint_path=path, checkpoint_every=10,
            progress="transformer")  # fmt: skip
    state = torch.load(path, weights_only=True)
    assert state["step"] == 10
    assert all(tensor.isfinite().all() for tensor in state["network"].values())
