"""Which weights a run hands back: averages and the best of the early-stop checks."""

import dataclasses

import pytest
import torch

from erase.config import EngineConfig
from erase.unroll import restored


def test_the_average_is_the_weighted_mean_of_the_steps(toy):
    config = EngineConfig(steps=9, average_half_life=3.0, preview_every=1, forget_learning_rate=0.01)
    averaged, raw, visited = toy.ToyTask(), toy.ToyTask(), []
    result = toy.run_toy(averaged, config)
    raw_config = dataclasses.replace(config, average_half_life=0.0)
    toy.run_toy(raw, raw_config, preview=lambda _: visited.append(toy.weights_of(raw)))
    shares = torch.tensor([2 ** (-(9 - step) / 3) for step in range(1, 10)], dtype=torch.float64)
    shares /= shares.sum()
    for name, each in averaged.parameters.items():
        mean = sum(share * weights[name].double() for share, weights in zip(shares, visited[1:], strict=True))
        torch.testing.assert_close(each.double(), mean, rtol=1e-5, atol=1e-6)
    assert result.averaged and result.weights_step == 9


@pytest.mark.parametrize(
    ("scores", "best", "stops_at"),
    [
        ([(0.9, 1.0), (0.0, 0.5), (0.05, 0.8), (0.0, 0.7), (0.0, 0.9)], 2, 4),  # stops when retain no longer gains
        ([(0.9, 1.0), (0.05, 0.6), (0.3, 0.9), (0.0, 0.6), (0.0, 0.9)], 1, 4),  # forgetting that came undone goes on
        ([(0.9, 1.0), (0.5, 0.9), (0.4, 0.5), (0.6, 0.9), (0.4, 0.6)], 4, 5),  # never met: the most forgetting
        ([(0.9, 1.0), (0.5, 0.9), (0.4, 0.5), (0.2, 0.9), (0.1, 0.2)], 4, 5),  # met at the last step
    ],
)  # fmt: skip
def test_early_stop_keeps_the_best_check(toy, scores, best, stops_at):
    task, checked = toy.scripted(scores)
    lines = []
    config = EngineConfig(steps=33, stop_below=0.1, stop_every=7, log_every=100, preview_every=7)
    previews = {}
    result = toy.run_toy(
        task, config, lines=lines, preview=lambda step: previews.setdefault(step, toy.weights_of(task))
    )
    steps = [7, 14, 21, 28, 33]
    assert len(checked) == stops_at and result.steps == steps[stops_at - 1]
    assert list(previews) == [0, *steps[:stops_at]] and toy.same(previews[result.steps], checked[best])
    assert result.weights_step == steps[best] and result.stopped_early == (stops_at < 5)
    assert toy.same(toy.weights_of(task), checked[best])
    assert [check["step"] for check in result.checks] == steps[:stops_at]
    assert [line["step"] for line in lines if "forget_accuracy" in line] == steps[:stops_at]


def test_checks_score_and_keep_the_average(toy):
    """What is scored is what is handed back."""
    config = EngineConfig(steps=10, average_half_life=3.0, stop_below=0.1, stop_every=5)
    task, checked = toy.scripted([(0.0, 0.9), (0.0, 0.5)])
    reference = toy.ToyTask()
    toy.run_toy(task, config)
    with restored(list(reference.parameters.values())):
        toy.run_toy(reference, dataclasses.replace(config, stop_below=0.0))
        assert toy.same(toy.weights_of(reference), checked[1])
    assert toy.same(toy.weights_of(task), checked[0])
