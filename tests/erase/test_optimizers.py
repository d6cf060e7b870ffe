"""Masks, clips and optimizer steps against closed forms."""

import math

import pytest
import torch
from torch import nn

from erase.config import EngineConfig
from erase.optimizers import PhaseMasks, PhaseStepper, scheduled
from erase.update import Updater
from pipelines.errors import MissingError, UsageError

RULES = [("alternate", "dual"), ("alternate", "shared"), ("joint", "shared"), ("simultaneous", "dual"),
         ("simultaneous", "shared")]  # fmt: skip


def bits(parameters):
    """The weights as integers, so that equal means the same bits."""
    return [each.detach().clone().view(torch.int32) for each in parameters]


def updater(task, config, masks=None):
    return Updater(task, PhaseStepper(task.parameters, config, masks=masks or PhaseMasks()), config, seed=0)


def test_cosine_schedule_starts_at_the_peak_and_would_reach_zero_at_the_end():
    values = [scheduled(2.0, "cosine", step, steps=4) for step in range(5)]
    assert values == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0])
    assert scheduled(2.0, "constant", 3, steps=4) == 2.0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_is_adamw_by_hand(decay):
    config = EngineConfig(steps=4, retain_learning_rate=0.01, weight_decay=decay, retain_clip=0)
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    stepper = PhaseStepper({"w": weight}, config, masks=PhaseMasks())
    expected, m, v = weight.detach().double(), torch.zeros(3).double(), torch.zeros(3).double()
    for step, values in enumerate(([0.3, -0.1, 2.0], [-1.0, 0.2, 0.1], [0.5, 0.5, 0.0])):
        gradient = torch.tensor(values)
        moved = stepper.step("retain", [gradient.clone()], step=step, measure=True)

        rate, before = scheduled(0.01, "cosine", step, steps=4), expected
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        expected = before * (1 - rate * decay) - rate * m_hat / (v_hat.sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(moved.double(), (expected - before).norm(), rtol=1e-4, atol=0)
    assert weight.grad is None


@pytest.mark.parametrize("order", ["mask-clip", "clip-mask"])
def test_mask_and_clip_in_the_order_asked_for(order):
    config = EngineConfig(forget_clip=1.0, clip_order=order)
    weight = nn.Parameter(torch.zeros(3))
    stepper = PhaseStepper({"w": weight}, config, masks=PhaseMasks(forget={"w": torch.tensor([True, False, True])}))
    gradients = [torch.tensor([3.0, 12.0, 4.0])]
    norm, clipped = stepper.condition("forget", gradients)
    seen = 5.0 if order == "mask-clip" else 13.0
    assert norm.item() == pytest.approx(seen) and clipped.item()
    torch.testing.assert_close(gradients[0], torch.tensor([3.0, 0.0, 4.0]) / seen)


def test_clip_zero_never_clips_and_a_small_gradient_is_left_alone():
    weight = nn.Parameter(torch.zeros(2))
    for clip in (0.0, 10.0):
        stepper = PhaseStepper({"w": weight}, EngineConfig(forget_clip=clip), masks=PhaseMasks())
        gradients = [torch.tensor([3.0, 4.0])]
        norm, clipped = stepper.condition("forget", gradients)
        assert (norm.item(), clipped.item(), gradients[0].tolist()) == (5.0, False, [3.0, 4.0])


@pytest.mark.parametrize(("update", "optimizers"), RULES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("order", ["mask-clip", "clip-mask"])
@pytest.mark.parametrize("masked", ["forget", "both", "unlike"])
def test_masks_are_hard(toy, update, optimizers, decay, order, masked):
    config = EngineConfig(
        steps=20, update=update, optimizers=optimizers, weight_decay=decay, clip_order=order, forget_clip=0.1,
        retain_clip=0.1, combine="pcgrad" if (update, optimizers) == ("simultaneous", "shared") else "sum",
    )  # fmt: skip
    task = toy.ToyTask()
    mask = toy.toy_masks(task.parameters)
    retain = {"forget": None, "both": mask, "unlike": toy.toy_masks(task.parameters, seed=1)}[masked]
    engine = updater(task, config, PhaseMasks(forget=mask, retain=retain))
    parameters, inner = engine.stepper.parameters, engine.stepper.step
    steps = dict.fromkeys(("forget", "retain", "both"), 0)

    def watched(side, gradients, *, step, measure):
        """Each step leaves what is outside its mask alone and moves what is inside."""
        before = bits(parameters)
        inner(side, gradients, step=step, measure=measure)
        inside = {"forget": mask, "retain": retain}.get(side)
        if side == "both" and retain is not None:
            inside = {name: mask[name] | retain[name] for name in mask}
        moved = [now != then for now, then in zip(bits(parameters), before, strict=True)]
        free = torch.ones_like(moved[1]) if inside is None else inside["first.weight"]
        assert moved[1][free].float().mean() > 0.9
        if inside is not None:
            assert not any((each & ~inside[name]).any() for name, each in zip(task.parameters, moved, strict=True))
        steps[side] += 1

    engine.stepper.step = watched
    for step in range(4):
        engine.run(step, measure=False)
    single = update == "joint" or (update, optimizers) == ("simultaneous", "shared")
    assert steps == ({"forget": 0, "retain": 0, "both": 4} if single else {"forget": 4, "retain": 4, "both": 0})


def test_a_masked_gradient_alone_would_not_freeze_a_weight():
    """The trap that hard masks avoid: momentum of the other side and decay both move a weight of zero gradient."""
    for decay, momentum in ((0.1, False), (0.0, True)):
        weight = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=decay)
        if momentum:
            weight.grad = torch.ones(2)
            optimizer.step()
        before = weight.detach().clone()
        weight.grad = torch.tensor([1.0, 0.0])
        optimizer.step()
        assert weight[1] != before[1]


def test_dual_without_decay_makes_no_copy_of_the_weights(toy):
    for settings, copies in (({}, False), ({"weight_decay": 0.1}, True), ({"optimizers": "shared"}, True)):
        task = toy.ToyTask()
        engine = updater(task, EngineConfig(steps=5, **settings), PhaseMasks(forget=toy.toy_masks(task.parameters)))
        engine.run(0, measure=False)
        assert bool(engine.stepper.backup) is copies


def test_refused_combinations(toy):
    for settings, words in (
        ({"update": "joint"}, "--optimizers shared"),
        ({"forget_weight": 2.0}, "Adam cancels"),
        ({"retain_weight": 0.5}, "Adam cancels"),
        ({"combine": "pcgrad"}, "--update simultaneous"),
        ({"update": "simultaneous", "combine": "orthogonal"}, "--optimizers shared"),
        ({"update": "simultaneous", "forget_steps": 2}, "must be 1"),
        ({"update": "joint", "optimizers": "shared", "forget_learning_rate": 1e-3}, "must be equal"),
        ({"update": "simultaneous", "optimizers": "shared", "forget_learning_rate": 1e-3}, "must be equal"),
    ):
        with pytest.raises(UsageError, match=words):
            PhaseStepper(toy.ToyTask().parameters, EngineConfig(**settings), masks=PhaseMasks())


def test_a_mask_of_another_model_is_refused(toy):
    parameters = toy.ToyTask().parameters
    whole = toy.toy_masks(parameters)
    for wrong in (
        {"table": whole["table"]},
        {**whole, "extra": whole["table"]},
        {**whole, "table": whole["table"][:2]},
    ):
        with pytest.raises(UsageError, match="another model"):
            PhaseStepper(parameters, EngineConfig(), masks=PhaseMasks(forget=wrong))


def test_optimizer_state_round_trip_keeps_the_memory_layout(toy):
    """Fused kernels walk raw memory: a moment in another layout than its weight would be applied to other weights."""
    start = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    def stepper():
        weight = nn.Parameter(start.clone().contiguous(memory_format=torch.channels_last))
        return weight, PhaseStepper({"w": weight}, EngineConfig(), masks=PhaseMasks())

    gradient = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    weight, first = stepper()
    first.step("forget", [gradient], step=0, measure=False)
    first.step("retain", [gradient], step=0, measure=False)
    resumed, second = stepper()
    with torch.no_grad():
        resumed.copy_(weight)
    second.load_state_tensors({name: each.contiguous() for name, each in first.state_tensors().items()})
    first.step("forget", [gradient], step=1, measure=False)
    second.step("forget", [gradient], step=1, measure=False)
    assert torch.equal(weight, resumed)

    with pytest.raises(MissingError, match="another model"):
        stepper()[1].load_state_tensors({})
