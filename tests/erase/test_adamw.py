"""Packed and 8-bit moments against the plain optimizer: same steps, saved states, memory."""

import copy

import pytest
import torch
from torch import nn

from erase.adamw import EightBitAdamW, FullAdamW, PackedAdamW
from erase.config import EngineConfig
from erase.loop import run_loop
from erase.optimizers import PhaseMasks, PhaseStepper
from pipelines.errors import MissingError, UsageError

SHAPES = {"linear": (96, 64), "conv": (8, 4, 3, 3), "bias": (17,), "untouched": (5,)}


def weights(seed=0):
    draws = torch.Generator().manual_seed(seed)
    found = {name: nn.Parameter(torch.randn(shape, generator=draws)) for name, shape in SHAPES.items()}
    found["conv"].data = found["conv"].data.contiguous(memory_format=torch.channels_last)
    return found


def give_gradients(parameters, step, masks=None):
    draws = torch.Generator().manual_seed(100 + step)
    for name, parameter in parameters.items():
        gradient = torch.randn(parameter.shape, generator=draws) * (1.0 if masks is None else masks[name])
        parameter.grad = torch.empty_like(parameter).detach().copy_(gradient)  # in the parameter's memory layout


def random_masks(density=0.3):
    draws = torch.Generator().manual_seed(7)
    found = {name: torch.rand(shape, generator=draws) < density for name, shape in SHAPES.items()}
    found["untouched"][:] = False
    return found


def test_packed_steps_are_those_of_masked_gradients():
    masks, full, packed = random_masks(), weights(), weights()
    plain, small = FullAdamW(full, weight_decay=0.0), PackedAdamW(packed, mask=list(masks.values()))
    before = {name: each.detach().clone() for name, each in packed.items()}
    for step in range(5):
        for parameters, optimizer in ((full, plain), (packed, small)):
            give_gradients(parameters, step, masks)
            optimizer.step(0.01 / (1 + step))
    for name in SHAPES:
        torch.testing.assert_close(packed[name], full[name], rtol=1e-6, atol=1e-7)
        assert torch.equal(packed[name][~masks[name]], before[name][~masks[name]])
        assert not torch.equal(packed[name], before[name]) or name == "untouched"


def test_packed_moments_exist_inside_the_mask_alone_and_mask_gradients():
    masks, parameters = random_masks(), weights()
    optimizer = PackedAdamW(parameters, mask=list(masks.values()))
    give_gradients(parameters, 0)
    gradients = [parameter.grad for parameter in parameters.values()]
    expected = [gradient * mask for gradient, mask in zip(gradients, masks.values(), strict=True)]
    optimizer.mask(gradients)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))

    optimizer.step(0.01)
    inside = sum(int(mask.sum()) for mask in masks.values())
    state = optimizer.state_tensors()
    for moment in ("exp_avg", "exp_avg_sq"):
        assert sum(value.numel() for name, value in state.items() if name.startswith(f"{moment}/")) == inside
    assert sum(packed.numel() for packed in optimizer.packed.values()) == 0  # no copy of the weights stays


def test_eight_bit_steps_follow_the_plain_ones():
    pytest.importorskip("torchao")
    plain_weights, small_weights = weights(), weights()
    plain, small = FullAdamW(plain_weights, weight_decay=0.1), EightBitAdamW(small_weights, weight_decay=0.1)
    for step in range(5):
        for parameters, optimizer in ((plain_weights, plain), (small_weights, small)):
            give_gradients(parameters, step)
            optimizer.step(0.01)
    start = weights()
    for name in SHAPES:
        moved = (plain_weights[name] - start[name]).norm()
        assert (small_weights[name] - plain_weights[name]).norm() < 0.02 * moved, name


def test_eight_bit_moments_take_a_quarter_of_the_memory():
    pytest.importorskip("torchao")
    parameters = {"weight": nn.Parameter(torch.zeros(512, 512))}
    optimizer = EightBitAdamW(parameters, weight_decay=0.0)
    give = {"weight": torch.ones(512, 512)}
    parameters["weight"].grad = give["weight"]
    optimizer.step(0.1)
    held = sum(value.nbytes for name, value in optimizer.state_tensors().items() if not name.startswith("step"))
    assert held == 2 * 512 * 512 * (1 + 4 / 256)


@pytest.mark.parametrize("kind", ["full", "packed", "8bit"])
def test_a_saved_state_goes_on_with_the_same_bits(kind):
    if kind == "8bit":
        pytest.importorskip("torchao")
    masks = random_masks()

    def make(parameters):
        if kind == "packed":
            return PackedAdamW(parameters, mask=list(masks.values()))
        return (FullAdamW if kind == "full" else EightBitAdamW)(parameters, weight_decay=0.0)

    parameters = weights()
    optimizer = make(parameters)
    for step in range(3):
        give_gradients(parameters, step, masks)
        optimizer.step(0.01)
    state = {name: value.clone() for name, value in optimizer.state_tensors().items()}
    again = {name: nn.Parameter(each.detach().clone()) for name, each in parameters.items()}
    other = make(again)
    other.load_state_tensors(state)
    assert all(torch.equal(again[name], parameters[name]) for name in SHAPES)
    for step in range(3, 6):
        for members, each in ((parameters, optimizer), (again, other)):
            give_gradients(members, step, masks)
            each.step(0.01)
    assert all(torch.equal(again[name], parameters[name]) for name in SHAPES)


@pytest.mark.parametrize("kind", ["full", "packed", "8bit"])
def test_a_state_of_other_parameters_is_refused(kind):
    if kind == "8bit":
        pytest.importorskip("torchao")
    masks = random_masks()
    makers = {
        "full": lambda members: FullAdamW(members, weight_decay=0.0),
        "packed": lambda members: PackedAdamW(members, mask=list(masks.values())),
        "8bit": lambda members: EightBitAdamW(members, weight_decay=0.0),
    }
    with pytest.raises(MissingError, match="another model"):
        makers[kind](weights()).load_state_tensors({})


@pytest.mark.parametrize("settings", [{"forget_moments": "packed"}, {"retain_moments": "8bit"}])
def test_an_engine_with_less_memory_takes_the_same_path(toy, settings):
    if "retain_moments" in settings:
        pytest.importorskip("torchao")
    mask = {name: torch.rand(each.shape) < 0.5 for name, each in toy.ToyTask().parameters.items()}
    found = []
    for options in ({}, settings):
        task = toy.ToyTask()
        run_loop(
            task, EngineConfig(steps=8, log_every=4, **options), seed=0, masks=PhaseMasks(forget=mask),
            checkpoint_path=None, config_hash="", log=lambda line: None, preview=None, progress=False,
        )  # fmt: skip
        found.append(copy.deepcopy(task.parameters))
    for name in mask:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-5, atol=1e-6)


def test_settings_of_moments_that_cannot_act_are_refused(toy):
    with pytest.raises(UsageError, match="--optimizers dual"):
        EngineConfig(optimizers="shared", retain_moments="8bit")
    with pytest.raises(UsageError, match="--weight-decay"):
        EngineConfig(forget_moments="packed", weight_decay=0.1)
    with pytest.raises(UsageError, match="no saliency mask"):
        PhaseStepper(toy.ToyTask().parameters, EngineConfig(forget_moments="packed"), masks=PhaseMasks())
