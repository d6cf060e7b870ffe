"""Unrolled relearning recomputed by hand, and weights that come back bit for bit."""

import pytest
import torch

from erase.config import EngineConfig
from erase.optimizers import PhaseMasks, PhaseStepper, loss_gradients
from erase.unroll import attack_length, gradients_after_relearning, restored
from erase.update import Updater


def after_relearning(task, config, *, step=2, phase=1, weight=1.0):
    batch = task.forget_batch(step, phase)
    return gradients_after_relearning(task, batch, config=config, seed=7, step=step, phase=phase, weight=weight)


@pytest.mark.parametrize("attacker", ["adam", "sgd"])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_gradient_is_that_of_the_attacked_weights_by_hand(toy, attacker, weight):
    config = EngineConfig(robust=True, robust_steps=6, robust_learning_rate=0.02, robust_attacker=attacker)
    task, by_hand = toy.ToyTask(), toy.ToyTask()
    before = toy.weights_of(task)
    gradients = after_relearning(task, config, weight=weight)
    assert all(
        torch.equal(before[name].view(torch.int32), each.view(torch.int32)) for name, each in task.parameters.items()
    )
    assert all(each.grad is None for each in task.parameters.values())

    # theta, then an attacker of n steps, then theta'.
    weights, batch = list(by_hand.parameters.values()), by_hand.forget_batch(2, 1)
    g0 = loss_gradients(by_hand.forget_loss(batch).objective, weights)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[attacker]
    optimizer = kind(weights, lr=0.02, fused=False)
    length = attack_length(6, seed=7, step=2, phase=1)
    for number in range(length):
        optimizer.zero_grad()
        by_hand.relearning_loss(by_hand.relearning_batch(2, 6 + number, size=64)).backward()
        optimizer.step()
    g1 = loss_gradients(by_hand.forget_loss(batch).objective, weights)
    assert not torch.allclose(g0[1], g1[1], rtol=0.01)
    for mine, second in zip(gradients, g1, strict=True):
        torch.testing.assert_close(mine, weight * second, rtol=1e-4, atol=1e-6)


def test_an_attack_that_learns_nothing_doubles_the_gradient(toy):
    task = toy.ToyTask()
    config = EngineConfig(robust=True, robust_learning_rate=0.0)
    engine = Updater(task, PhaseStepper(task.parameters, config, masks=PhaseMasks()), config, seed=7)
    loss, gradients = engine.forget_gradients(2, 1)
    plain = task.forget_loss(task.forget_batch(2, 1))
    torch.testing.assert_close(loss.denoising, plain.denoising)
    for mine, single in zip(gradients, loss_gradients(plain.objective, list(task.parameters.values())), strict=True):
        torch.testing.assert_close(mine, 2 * single)


def test_attack_lengths_cover_their_range_and_depend_on_step_and_phase():
    lengths = [attack_length(4, seed=0, step=step, phase=0) for step in range(200)]
    assert set(lengths) == {1, 2, 3, 4} and min(map(lengths.count, range(1, 5))) > 25
    assert lengths == [attack_length(4, seed=0, step=step, phase=0) for step in range(200)]
    assert lengths != [attack_length(4, seed=0, step=step, phase=1) for step in range(200)]
    assert lengths != [attack_length(4, seed=1, step=step, phase=0) for step in range(200)]


def test_every_attack_step_has_a_batch_of_its_own(toy):
    task = toy.ToyTask()
    config = EngineConfig(steps=6, robust=True, robust_steps=5, robust_every=2, forget_steps=3)
    engine = Updater(task, PhaseStepper(task.parameters, config, masks=PhaseMasks()), config, seed=7)
    for step in range(6):
        engine.run(step, measure=False)
    attacks = [(step, phase) for side, step, phase in task.seen if side == "relearning"]
    assert len(attacks) == len(set(attacks))
    lengths = [attack_length(5, seed=7, step=step, phase=phase) for step in (0, 2, 4) for phase in range(3)]
    assert len(attacks) == sum(lengths) and {step for step, _ in attacks} == {0, 2, 4}


def test_weights_come_back_when_an_attack_fails(toy):
    task = toy.ToyTask()
    before = toy.weights_of(task)
    with pytest.raises(KeyboardInterrupt), restored(list(task.parameters.values())), torch.no_grad():
        for each in task.parameters.values():
            each.add_(1e8).mul_(float("nan"))
        raise KeyboardInterrupt
    assert all(torch.equal(before[name], each) for name, each in task.parameters.items())
