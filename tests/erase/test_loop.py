"""The engine's loop: log lines, previews, divergence and progress."""

import dataclasses
import json

import pytest
import torch

from erase.config import EngineConfig
from erase.loop import run_loop
from erase.optimizers import PhaseMasks
from pipelines.errors import DivergedError


def test_log_lines_have_every_reading_at_the_steps_promised(toy):
    lines = []
    toy.run_toy(toy.ToyTask(), EngineConfig(steps=25, log_every=10, forget_clip=1e-3, retain_clip=0), lines=lines)
    assert [line["step"] for line in lines] == [1, 10, 20, 25]
    sides = ("loss", "objective", "grad_norm", "update_norm", "clip_rate", "learning_rate")
    keys = {f"{side}_{name}" for side in ("forget", "retain") for name in sides}
    keys |= {"step", "gradient_cosine", "probe_loss", "nonfinite", "seconds", "erased_row_travel"}
    assert all(set(line) == keys for line in lines)
    assert all((line["forget_clip_rate"], line["retain_clip_rate"], line["nonfinite"]) == (1, 0, 0) for line in lines)
    assert lines[0]["forget_objective"] == pytest.approx(-lines[0]["forget_loss"])
    assert lines[0]["forget_learning_rate"] == 2e-4 and lines[-1]["forget_learning_rate"] < 2e-6
    assert -1 <= lines[0]["gradient_cosine"] <= 1 and lines[0]["forget_update_norm"] > 0
    json.dumps(lines, allow_nan=False)


def test_a_line_is_the_mean_since_the_line_before(toy):
    """Logging more often splits the same numbers; it does not change them, or the weights."""
    fine, coarse, tasks = [], [], (toy.ToyTask(), toy.ToyTask())
    toy.run_toy(tasks[0], EngineConfig(steps=13, log_every=1), lines=fine)
    toy.run_toy(tasks[1], EngineConfig(steps=13, log_every=6), lines=coarse)
    for name in ("forget_loss", "retain_grad_norm"):
        assert coarse[1][name] == pytest.approx(sum(line[name] for line in fine[1:6]) / 5, rel=1e-5)
    assert toy.same(toy.weights_of(tasks[0]), toy.weights_of(tasks[1]))


def test_a_line_counts_every_phase(toy):
    task, lines, seen = toy.ToyTask(), [], []
    error_of = task.forget_loss
    task.forget_loss = lambda batch: (seen.append(error_of(batch)), seen[-1])[1]
    toy.run_toy(task, EngineConfig(steps=1, forget_steps=3), lines=lines)
    losses = [loss.denoising.item() for loss in seen]
    assert len(set(losses)) == 3 and lines[0]["forget_loss"] == pytest.approx(sum(losses) / 3)


def test_no_preview_is_made_unless_asked_for(toy):
    def refuse(step):
        raise AssertionError("a preview was made")

    toy.run_toy(toy.ToyTask(), EngineConfig(steps=3, preview_every=0), preview=refuse)


@pytest.mark.parametrize("half_life", [0.0, 4.0])
def test_previews_never_change_the_result(toy, half_life):
    config = EngineConfig(steps=12, preview_every=5, average_half_life=half_life)
    plain, shown, seen, previews = toy.ToyTask(), toy.ToyTask(), [], []

    def preview(step):
        torch.manual_seed(step)
        torch.randn(100)
        previews.append(step)
        seen.append(toy.weights_of(shown))

    toy.run_toy(plain, config)
    toy.run_toy(shown, config, preview=preview)
    assert previews == [0, 5, 10, 12] and toy.same(toy.weights_of(plain), toy.weights_of(shown))

    # The first shows the original and the last the result.
    assert toy.same(seen[0], toy.weights_of(toy.ToyTask())) and toy.same(seen[3], toy.weights_of(plain))

    # A preview shows what would be the result: at step 5 that of a run with the same schedule, stopped there.
    if half_life:
        raw = toy.ToyTask()
        toy.run_toy(
            raw, dataclasses.replace(config, average_half_life=0.0), preview=lambda _: seen.append(toy.weights_of(raw))
        )
        assert not toy.same(seen[1], seen[5])


def test_divergence_keeps_the_last_good_weights(toy, tmp_path):
    config = EngineConfig(steps=40, forget_learning_rate=2.0, divergence_factor=3.0, log_every=5, checkpoint_every=1)
    task, good, lines, states = toy.ToyTask(), toy.ToyTask(), [], []
    start = task.probe_loss()
    with pytest.raises(DivergedError, match=r"beyond --divergence-factor 3.*--forget-learning-rate \(now 2\)"):
        toy.run_toy(task, config, lines=lines)
    assert task.probe_loss() <= 3 * start

    # They are those of the last step that passed.
    config = dataclasses.replace(config, preview_every=1)
    with pytest.raises(DivergedError, match="weights of step") as caught:
        toy.run_toy(good, config, preview=lambda step: states.append((step, toy.weights_of(good))))
    step, weights = states[-1] if states else (0, toy.weights_of(toy.ToyTask()))
    assert toy.same(weights, toy.weights_of(task)) and f"weights of step {step} are" in str(caught.value)


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_a_loss_that_is_not_finite_names_its_own_knob(toy, side):
    task, lines, states = toy.ToyTask(), [], []
    batch_of = getattr(task, f"{side}_batch")
    broken = lambda batch: (batch[0] * float("inf"), batch[1])  # noqa: E731
    setattr(
        task, f"{side}_batch", lambda step, phase: (broken if step == 7 else lambda same: same)(batch_of(step, phase))
    )
    config = EngineConfig(steps=40, log_every=5, checkpoint_every=3, forget_steps=2, preview_every=6)
    with pytest.raises(
        DivergedError, match=rf"by step 9 the {side} loss.*weights of step 6.*lower --{side}-learning-rate"
    ):
        toy.run_toy(task, config, lines=lines, preview=lambda _: states.append(toy.weights_of(task)))
    assert toy.same(toy.weights_of(task), states[1]) and [line["step"] for line in lines] == [1, 5]


def test_the_line_of_a_diverged_step_is_still_logged_as_json(toy):
    task, lines = toy.ToyTask(), []
    forget_loss = task.forget_loss
    task.forget_loss = lambda batch: dataclasses.replace(forget_loss(batch), denoising=torch.tensor(float("nan")))
    with pytest.raises(DivergedError, match="by step 1 the forget loss"):
        toy.run_toy(task, EngineConfig(steps=4), lines=lines)
    assert lines[0]["forget_loss"] is None and lines[0]["nonfinite"] == 1
    json.dumps(lines, allow_nan=False)


def test_a_broken_model_is_refused_before_the_first_step(toy):
    task = toy.ToyTask()
    task.probe_loss = lambda: float("nan")
    with pytest.raises(DivergedError, match="before the first step"):
        toy.run_toy(task, EngineConfig(steps=4))


def test_the_progress_bar_shows_losses_norms_and_time(toy, capsys):
    toy.run_toy(toy.ToyTask(), EngineConfig(steps=3, log_every=1), progress=True)
    captured = capsys.readouterr()
    assert all(words in captured.err for words in ("forget loss", "retain loss", "forget grad norm", "3/3", "<"))
    assert captured.out == ""


def test_the_engine_runs_a_task_that_is_not_a_model(toy):
    """Any object with the protocol's attributes will do, here with one parameter and no batches."""
    weight = torch.nn.Parameter(torch.tensor([3.0]))

    class Parabola:
        parameters = {"w": weight}  # noqa: RUF012
        forget_batch = retain_batch = relearning_batch = staticmethod(lambda step, phase: None)
        probe_loss = staticmethod(lambda: float(weight.detach().square().sum()))
        travel = staticmethod(dict)

        def retain_loss(self, batch):
            loss = weight.square().sum()
            return toy.Loss(loss, loss.detach())

        forget_loss = retain_loss

    config = EngineConfig(steps=400, forget_learning_rate=0.05, retain_learning_rate=0.05, log_every=50)
    run_loop(
        Parabola(), config, seed=0, masks=PhaseMasks(), checkpoint_path=None, config_hash="", log=lambda line: None,
        preview=None, progress=False,
    )  # fmt: skip
    assert abs(weight.item()) < 0.05
