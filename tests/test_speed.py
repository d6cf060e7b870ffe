"""The plain loop that speed is compared with does the product's work: same updates, same Fisher, same images."""

import dataclasses
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from benchmarks.all import missed, share_lines, table
from benchmarks.speed import overhead
from benchmarks.speed.baseline import PlainLoop, plain_ddpm, plain_fisher, plain_pixels, plain_steps
from benchmarks.speed.fisher import distance, jaccard
from benchmarks.speed.growth import Growth
from benchmarks.speed.pairs import SAME, Turns, as_records, compared, held, in_processes, in_turns
from benchmarks.speed.step import ours_of, update_error
from erase.config import EngineConfig
from erase.diffusion_task import DiffusionTask
from erase.evidence import cached_fisher, evidence_batch
from erase.method import method_class
from erase.optimizers import PhaseMasks
from pipelines.generate import generate_all
from pipelines.sampler import SamplerSettings, sample_latents

CPU = torch.device("cpu")
ENGINE = EngineConfig(forget_batch_size=6, retain_batch_size=6, diagnostics=False, steps=10)


@pytest.fixture
def tasks(make_workspace):
    """Two equal tasks of plain ascent."""
    method = method_class("gradient_ascent")()
    return [DiffusionTask(workspace=make_workspace((3,)), method=method, engine=ENGINE) for _ in range(2)]


def half(task):
    """A mask of every other weight of the forget phase."""
    return PhaseMasks(
        forget={name: torch.arange(each.numel()).view(each.shape) % 2 == 0 for name, each in task.parameters.items()}
    )


def test_both_sides_take_the_same_steps(tasks, monkeypatch):
    monkeypatch.setattr("benchmarks.speed.step.random_masks", half)
    plain, ours = tasks
    before = {name: each.detach().clone() for name, each in plain.parameters.items()}
    loop, step = PlainLoop(plain, ENGINE, half(plain)), ours_of(ours)
    for number in range(3):
        loop.run(number)
        step(number)
    assert 0 < update_error(before, plain, ours) < 1e-4
    assert len(loop.losses) == 6

    # Without its mask the plain loop goes elsewhere.
    loop.mask = {name: torch.ones_like(each) for name, each in loop.mask.items()}
    loop.run(3)
    step(3)
    assert update_error(before, plain, ours) > 1e-2


def test_both_sides_draw_the_same_pixels_by_the_same_steps(tasks):
    model, labels, seeds = tasks[0].workspace.model, torch.arange(8), list(range(8))
    settings = SamplerSettings(num_inference_steps=6)
    plain = plain_pixels(model, plain_steps(model, labels, seeds, settings=settings))
    ours = generate_all(model, list(zip(labels.tolist(), seeds, strict=True)), settings)
    assert (plain.int() - ours.int()).abs().max() <= 1 and plain.float().std() > 1


def turn_of(turns, lengths, order):
    """Work in slices of these lengths, each noted when it begins."""
    turns.begin()
    for number, length in enumerate(lengths, 1):
        order.append(turns.place)
        time.sleep(length)
        turns.pause(number / len(lengths))
    turns.end()
    return turns.seconds


def test_sides_take_turns_and_wait_on_no_clock():
    order, shared = [], {"device": CPU, "shares": [0.0, 0.0], "changed": threading.Condition()}
    turns = [Turns(place=place, **shared) for place in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(turn_of, each, [0.05] * count, order) for each, count in zip(turns, (2, 4), strict=True)]
        seconds = [each.result(timeout=60) for each in futures]
    assert order == [0, 1, 1, 0, 1, 1]  # equal shares of unequal numbers of slices
    assert max(seconds) < 0.1  # of a processor: neither sleep nor waiting counts


def test_both_sides_have_the_same_fisher(tasks):
    workspace = tasks[0].workspace
    image = evidence_batch(workspace, workspace.forget, "forget", batch_size=1)
    plain = plain_fisher(tasks[0], [image(number) for number in range(5)])
    ours = cached_fisher(workspace, workspace.forget, "forget", num_samples=5, cache_dir=None)
    assert distance(ours, plain) < 1e-6
    masks = [{name: each > each.median() for name, each in found.items()} for found in (plain, ours)]
    assert jaccard(*masks) > 0.99 and jaccard(masks[0], {name: ~each for name, each in masks[0].items()}) == 0


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_both_sides_draw_the_same_images(tasks, guidance_scale):
    model, labels, seeds = tasks[0].workspace.model, torch.tensor([1, 7, 7]), [0, 1, 2]
    settings = SamplerSettings(sampler="ddpm", num_inference_steps=8, guidance_scale=guidance_scale)
    ours = sample_latents(model, labels, seeds, settings)
    plain = plain_ddpm(model, labels, seeds, num_steps=8, guidance_scale=guidance_scale)
    torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain[1], plain[2])


def test_ratios_are_taken_within_rounds():
    seconds = {"baseline": [4.0, 8.0, 6.0], "ours": [2.0, 2.0, 1.0]}
    row = compared(seconds, "ours", benchmark="step", case="a case", lane=SAME, at_least=2.0, gate={"update": 1e-7})
    assert (row.ratio, row.lowest, row.highest, row.baseline_seconds, row.seconds) == (4.0, 2.0, 6.0, 6.0, 2.0)
    text = table({"step": {"results": as_records([row])}})
    assert "| step | a case | same arithmetic | 6 s | 2 s | 4.00 (2.00 to 6.00) | 2 |" in text


def test_variants_take_turns_and_warm_rounds_do_not_count():
    order = []
    seconds = in_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, num_rounds=2, num_warm=1,
        before=lambda: order.append("-"),
    )  # fmt: skip
    assert "".join(order) == "-a-b" * 3
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_each_variant_can_have_a_process_of_its_own(tmp_path):
    noting = {name: f"echo $PPID >> {tmp_path / name}" for name in ("baseline", "ours")}
    makers = {name: partial(partial, os.system, command) for name, command in noting.items()}
    seconds = in_processes(makers, CPU, num_rounds=2)
    noted = {name: (tmp_path / name).read_text().split() for name in makers}
    assert {name: len(each) for name, each in noted.items()} == {"baseline": 3, "ours": 3}
    assert len({*noted["baseline"], *noted["ours"], str(os.getpid())}) == 3
    assert all(len(each) == 2 and min(each) > 0 for each in seconds.values())


def test_a_variant_that_fails_in_its_process_stops_the_comparison():
    with pytest.raises((EOFError, ConnectionError)):
        in_processes({"baseline": partial(int, "not a number")}, CPU, num_rounds=1)


def test_a_gate_that_does_not_hold_stops_the_comparison():
    assert held("update", 1e-7, 1e-6) == {"update": 1e-7}
    with pytest.raises(AssertionError, match=r"update: the two sides differ by 0.1"):
        held("update", 0.1, 1e-6)


def test_what_was_asked_for_and_missed_is_named():
    row = {"benchmark": "step", "case": "a case", "lane": SAME, "ratio": 1.9, "at_least": 2.0}
    record = {
        "step": {"results": [row, {**row, "at_least": 1.5}]},
        "overhead": {"results": {"shares": {"engine": 0.05, "sampler": 0.001}, "at most": overhead.AT_MOST}},
        "growth": {"results": [{"what": "step", "by": "batch size", "exponent": 2.0}]},
    }
    assert missed(record) == ["step, a case, same arithmetic", "engine", "step by batch size"]
    assert share_lines(record)[0] == "5.0% of the loop outside forward, backward and optimizer"
    assert missed({}) == []


def test_time_inside_the_timed_calls_is_noted():
    spent = []
    with overhead.timed_in(time, "sleep", spent):
        time.sleep(0.05)
    time.sleep(0.05)
    assert len(spent) == 1 and 0.05 <= spent[0] < 1


def test_growth_is_the_slope_of_the_last_two_sizes():
    curve = Growth(what="step", by="batch size", sizes=[1, 2, 8], seconds=[1.0, 1.5, 6.0])
    assert curve.exponent == pytest.approx(1.0)
    assert dataclasses.replace(curve, seconds=[1.0, 1.0, 16.0]).exponent == pytest.approx(2.0)
