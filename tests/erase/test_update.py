"""Update rules against plain PyTorch optimizers and closed forms."""

import itertools
import math

import pytest
import torch
from torch import nn

from erase.config import EngineConfig
from erase.diagnostics import Meter
from erase.optimizers import PhaseMasks, PhaseStepper, loss_gradients, scheduled
from erase.update import Updater, combine_gradients

RULES = [("alternate", "dual"), ("alternate", "shared"), ("joint", "shared"), ("simultaneous", "dual"),
         ("simultaneous", "shared")]  # fmt: skip


def updater(task, config, masks=None):
    return Updater(task, PhaseStepper(task.parameters, config, masks=masks or PhaseMasks()), config, seed=0)


def test_dual_is_algorithm_1_with_two_plain_optimizers(toy):
    """Weights and moments bit for bit: neither optimizer ever saw a gradient of the other side."""
    config = EngineConfig(steps=12, forget_steps=2, retain_steps=3, forget_clip=0, retain_clip=0,
                          forget_learning_rate=1e-2, retain_learning_rate=3e-3)  # fmt: skip
    task, reference = toy.ToyTask(), toy.ToyTask()
    engine = updater(task, config)
    for step in range(12):
        engine.run(step, measure=step % 3 == 0)

    weights = list(reference.parameters.values())
    plain = {side: torch.optim.AdamW(weights, weight_decay=0, fused=True) for side in ("forget", "retain")}
    for step, side in itertools.product(range(12), ("forget", "retain")):
        for phase in range(getattr(config, f"{side}_steps")):
            plain[side].zero_grad()
            loss = getattr(reference, f"{side}_loss")(getattr(reference, f"{side}_batch")(step, phase))
            loss.objective.backward()
            peak = getattr(config, f"{side}_learning_rate")
            plain[side].param_groups[0]["lr"] = 0.5 * peak * (1 + math.cos(math.pi * step / 12))
            plain[side].step()

    for name, weight in task.parameters.items():
        assert torch.equal(weight, reference.parameters[name])
        for side in plain:
            mine, theirs = (
                engine.stepper.optimizers[side].optimizer.state[weight],
                plain[side].state[reference.parameters[name]],
            )
            assert all(torch.equal(mine[entry], theirs[entry]) for entry in ("step", "exp_avg", "exp_avg_sq"))


def test_simultaneous_dual_adds_two_updates_from_the_same_weights(toy):
    config = EngineConfig(steps=9, update="simultaneous", forget_clip=0, retain_clip=0)
    task, reference = toy.ToyTask(), toy.ToyTask()
    engine = updater(task, config)
    weights = list(reference.parameters.values())
    ghosts = {side: [nn.Parameter(each.detach().clone()) for each in weights] for side in ("forget", "retain")}
    plain = {side: torch.optim.AdamW(ghosts[side], weight_decay=0) for side in ghosts}
    for step in range(4):
        record = engine.run(step, measure=True)
        updates = {}
        for side, ghost in ghosts.items():
            loss = getattr(reference, f"{side}_loss")(getattr(reference, f"{side}_batch")(step, 0))
            before = [each.detach().clone() for each in ghost]
            for each, gradient in zip(ghost, loss_gradients(loss.objective, weights), strict=True):
                each.grad = gradient
            plain[side].param_groups[0]["lr"] = scheduled(2e-4, "cosine", step, steps=9)
            plain[side].step()
            updates[side] = [each.detach() - then for each, then in zip(ghost, before, strict=True)]
        with torch.no_grad():
            for each, *moves in zip(weights, *updates.values(), strict=True):
                each.add_(sum(moves))
        norm = torch.cat([each.flatten() for each in updates["forget"]]).norm()
        torch.testing.assert_close(record.forget[0].update_norm, norm, rtol=1e-3, atol=0)
    for name, weight in task.parameters.items():
        torch.testing.assert_close(weight, reference.parameters[name], rtol=1e-5, atol=1e-6)


def test_joint_is_one_plain_step_on_the_weighted_sum(toy):
    config = EngineConfig(steps=9, update="joint", optimizers="shared", forget_weight=0.3, retain_weight=2.0,
                          forget_clip=0.5, retain_clip=0.5, weight_decay=0.1)  # fmt: skip
    task, reference = toy.ToyTask(), toy.ToyTask()
    engine = updater(task, config)
    weights = list(reference.parameters.values())
    plain = torch.optim.AdamW(weights, weight_decay=0.1)
    for step in range(4):
        record = engine.run(step, measure=True)
        plain.zero_grad()
        forget = reference.forget_loss(reference.forget_batch(step, 0)).objective
        (0.3 * forget + 2.0 * reference.retain_loss(reference.retain_batch(step, 0)).objective).backward()
        norm = nn.utils.clip_grad_norm_(weights, 0.5)
        assert bool(record.forget[0].clipped) == bool(record.retain[0].clipped) == bool(norm > 0.5)
        plain.param_groups[0]["lr"] = scheduled(2e-4, "cosine", step, steps=9)
        plain.step()
    for name, weight in task.parameters.items():
        torch.testing.assert_close(weight, reference.parameters[name], rtol=1e-5, atol=1e-6)


def test_pcgrad_and_orthogonal_in_closed_form():
    none = (None, None)
    forget, retain = [torch.tensor([1.0, 1.0])], [torch.tensor([-1.0, 0.0])]
    # The conflicting parts are along -x for the one and along (1, 1) for the other.
    (pcgrad,) = combine_gradients(forget, retain, rule="pcgrad", masks=none)
    torch.testing.assert_close(pcgrad, torch.tensor([0.0, 1.0]) + torch.tensor([-0.5, 0.5]))
    (orthogonal,) = combine_gradients(forget, retain, rule="orthogonal", masks=none)
    torch.testing.assert_close(orthogonal, torch.tensor([-1.0, 1.0]))

    # Without a conflict pcgrad is the sum; orthogonal still removes the shared direction.
    agreeing = [torch.tensor([1.0, 0.0])]
    assert combine_gradients(forget, agreeing, rule="pcgrad", masks=none)[0].tolist() == [2.0, 1.0]
    assert combine_gradients(forget, agreeing, rule="orthogonal", masks=none)[0].tolist() == [1.0, 1.0]
    assert combine_gradients(forget, retain, rule="sum", masks=none)[0].tolist() == [0.0, 1.0]
    assert combine_gradients(forget, [torch.zeros(2)], rule="orthogonal", masks=none)[0].tolist() == [1.0, 1.0]


def test_a_projection_stays_within_its_mask():
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(50, generator=draw) < 0.4
    forget, retain = torch.randn(50, generator=draw) * mask, torch.randn(50, generator=draw)
    (total,) = combine_gradients([forget], [retain], rule="orthogonal", masks=([mask.float()], None))
    moved = total - retain
    assert not moved[~mask].any()
    assert abs(moved @ retain) < 1e-4 * moved.norm() * retain.norm()


@pytest.mark.parametrize(("update", "optimizers"), RULES)
def test_diagnostics_of_one_step_by_hand(toy, update, optimizers):
    config = EngineConfig(steps=9, update=update, optimizers=optimizers, forget_clip=0.01, retain_clip=0.01)
    task, reference = toy.ToyTask(), toy.ToyTask()
    record = updater(task, config).run(0, measure=True)
    weights = list(reference.parameters.values())
    forget_loss = reference.forget_loss(reference.forget_batch(0, 0))
    forget = torch.cat([each.flatten() for each in loss_gradients(forget_loss.objective, weights)])
    phase = record.forget[0]
    assert torch.equal(phase.loss.denoising, forget_loss.denoising) and bool(phase.clipped)
    torch.testing.assert_close(phase.norm, forget.norm())
    if update != "alternate":
        retain_loss = reference.retain_loss(reference.retain_batch(0, 0))
        retain = torch.cat([each.flatten() for each in loss_gradients(retain_loss.objective, weights)])
        torch.testing.assert_close(record.cosine, torch.cosine_similarity(forget, retain, dim=0))
    assert not phase.loss.objective.requires_grad


@pytest.mark.parametrize(("update", "optimizers"), RULES)
def test_an_unmeasured_step_never_waits_for_the_device(toy, monkeypatch, update, optimizers):
    """Reading a number of a tensor is what makes a step wait."""
    config = EngineConfig(steps=9, update=update, optimizers=optimizers, robust=True, robust_steps=1)
    task = toy.ToyTask()
    engine = updater(task, config, PhaseMasks(forget=toy.toy_masks(task.parameters)))
    meter = Meter(torch.device("cpu"))

    def refuse(*_):
        raise AssertionError("a step read a value from the device")

    monkeypatch.setattr("erase.unroll.attack_length", lambda *_, **__: 1)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    meter.add(engine.run(0, measure=False))
