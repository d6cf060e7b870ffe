"""The population of label attackers recomputed one by one, its lives, its turns and its checkpoints."""

import pytest
import torch

from erase.config import EngineConfig
from erase.label_attackers import LabelAttackers
from erase.optimizers import PhaseMasks, PhaseStepper, loss_gradients
from erase.update import Updater
from pipelines.errors import UsageError

SETTINGS = {"robust": True, "robust_target": "label", "robust_label_rows": 4, "robust_label_rate": 0.05}


def attackers_of(task, **settings):
    return LabelAttackers(task, EngineConfig(**{**SETTINGS, **settings}), seed=7)


def test_every_attacker_is_adam_on_its_own_images_and_the_gradient_is_that_under_their_rows(toy):
    """Each row against torch.optim.Adam on the images that it has of each batch, over two phases."""
    task, by_hand = toy.ToyTask(), toy.ToyTask()
    before = toy.weights_of(task)
    attackers = attackers_of(task, robust_label_steps=3, robust_label_life=10**6)
    rows = [row.clone().requires_grad_(True) for row in task.attack_starts(0, 0, count=4)]
    optimizers = [torch.optim.Adam([row], lr=0.05) for row in rows]
    for step in (0, 1):
        batch = task.forget_batch(step, 0)
        found = attackers.gradients(batch, step=step, phase=0, weight=0.5)
        for number in range(3):
            inputs, labels = by_hand.relearning_batch(step, number)
            for place, (row, optimizer) in enumerate(zip(rows, optimizers, strict=True)):
                mine = slice(place, None, 4)
                with by_hand.attacked_by(row[None], (inputs[mine], labels[mine])):
                    (row.grad,) = torch.autograd.grad(by_hand.error((inputs[mine], labels[mine])), [row])
                optimizer.step()
        torch.testing.assert_close(attackers.tensors["rows"], torch.stack(rows).detach(), rtol=1e-4, atol=1e-5)

    with by_hand.attacked_by(torch.stack(rows).detach(), batch):
        expected = loss_gradients(0.5 * by_hand.forget_loss(batch).objective, list(by_hand.parameters.values()))
    assert not expected[0].any()  # the table itself is not looked up
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert toy.same(before, task.parameters)


def test_attackers_come_nearer_to_the_class(toy):
    task = toy.ToyTask()
    attackers, batch = attackers_of(task, robust_label_life=10**6), task.relearning_batch(99, 0)
    errors = []
    for step in range(30):
        attackers.gradients(task.forget_batch(step, 0), step=step, phase=0, weight=1.0)
        with task.attacked_by(attackers.tensors["rows"], batch), torch.no_grad():
            errors.append(task.error(batch).item())
    assert errors[-1] < 0.5 * errors[0]


def test_lives_are_drawn_from_their_range_and_end_at_different_times(toy):
    attackers, ages, lives = attackers_of(toy.ToyTask(), robust_label_steps=1, robust_label_life=5), [], set()
    for step in range(60):
        before = {name: each.clone() for name, each in attackers.tensors.items()}
        attackers.renew(step, 0)
        ended, mine = (before["age"] >= before["life"])[:, 0], attackers.tensors
        assert not mine["age"][ended].any() and not mine["second moments"][ended].any()
        assert all(torch.equal(each[~ended], before[name][~ended]) for name, each in mine.items())
        assert step == 0 or not ended.any() or not torch.equal(mine["rows"][ended], before["rows"][ended])
        lives |= set(mine["life"][ended].flatten().tolist())
        attackers.advance(attackers.task.relearning_batch(step, 0))
        ages.append(tuple(mine["age"].flatten().tolist()))
    assert lives == {1, 2, 3, 4, 5} and len({len(set(each)) for each in ages}) > 1


def test_no_batch_is_seen_twice(toy):
    task = toy.ToyTask()
    config = EngineConfig(**SETTINGS, steps=6, robust_label_steps=2, robust_every=2, forget_steps=3)
    engine = Updater(task, PhaseStepper(task.parameters, config, masks=PhaseMasks()), config, seed=7)
    for step in range(6):
        engine.run(step, measure=False)
    attacks = [(step, phase) for side, step, phase in task.seen if side == "relearning"]
    assert len(attacks) == len(set(attacks)) == 3 * 3 * 2 and {step for step, _ in attacks} == {0, 2, 4}


def test_both_kinds_of_attack_take_turns(toy, monkeypatch):
    task, turns = toy.ToyTask(), []
    config = EngineConfig(robust=True, robust_target="both", robust_every=3, robust_label_rows=4)
    engine = Updater(task, PhaseStepper(task.parameters, config, masks=PhaseMasks()), config, seed=7)
    inner = engine.attackers.gradients
    monkeypatch.setattr(
        engine.attackers, "gradients", lambda batch, **at: [turns.append(at["step"]), inner(batch, **at)][1]
    )
    for step in range(12):
        engine.run(step, measure=False)
    assert turns == [3, 9]


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [("weights", "robust_label_rate", 0.1), ("weights", "robust_label_rows", 8), ("label", "robust_steps", 3),
     ("label", "robust_learning_rate", 0.1), ("label", "robust_attacker", "sgd")],
)  # fmt: skip
def test_a_setting_of_an_attack_that_is_not_made_is_refused(target, name, value):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UsageError, match=rf"{flag} {value} has no effect with --robust-target {target}"):
        EngineConfig(robust=True, robust_target=target, **{name: value})
