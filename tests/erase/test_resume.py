"""Runs that are killed, stopped by a signal, resumed or refused a resume."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from erase.checkpoint import checkpoint_step
from erase.config import EngineConfig
from pipelines.errors import DivergedError, InterruptedRun, MissingError, UsageError

ROOT = Path(__file__).parents[2]
TOY_PATH = Path(__file__).with_name("toy_task.py")
EVERYTHING = {"robust": True, "robust_steps": 3, "average_half_life": 6.0, "stop_below": 0.3, "stop_every": 7,
              "forget_steps": 2, "weight_decay": 0.01, "forget_learning_rate": 3e-3}  # fmt: skip
VARIANTS = {
    "robust dual, average, early stop": (EVERYTHING, "forget"),
    "label attackers": (
        {
            "robust": True,
            "robust_target": "both",
            "robust_label_rows": 5,
            "robust_label_steps": 2,
            "robust_label_life": 9,
        },
        "none",
    ),
    "shared, masks, decay": ({"optimizers": "shared", "weight_decay": 0.1, "robust": True, "robust_every": 3}, "both"),
    "simultaneous dual": ({"update": "simultaneous", "forget_weight_schedule": "cosine"}, "forget"),
}


def settings_of(name, steps=60):
    settings, masked = VARIANTS[name]
    return {"steps": steps, "checkpoint_every": 4, "log_every": 3, **settings}, masked


def without_time(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def killed_process(settings, masked, path, output, *, after):
    """Start a run in a process of its own and kill it without warning some time after it passes step ``after``."""
    command = [sys.executable, str(TOY_PATH), json.dumps(settings), masked, str(path), str(output), "0.02"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while checkpoint_step(path, config_hash="cafe") <= after and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    time.sleep(random.Random(str(path)).uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not output.exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_killed_run_ends_with_the_same_bits(toy, tmp_path, name):
    settings, masked = settings_of(name)
    config, path = EngineConfig(**settings), tmp_path / "state.safetensors"
    reference, all_lines, lines = toy.ToyTask(), [], []
    expected = toy.run_toy(reference, config, masked=masked, lines=all_lines)

    killed_process(settings, masked, path, tmp_path / "never", after=0)
    if name.startswith("robust"):
        killed_process(settings, masked, path, tmp_path / "never", after=checkpoint_step(path, config_hash="cafe"))
    first = checkpoint_step(path, config_hash="cafe")
    assert 0 < first < 60 and first % 4 == 0

    task = toy.ToyTask()
    result = toy.run_toy(task, config, path=path, masked=masked, lines=lines)
    assert toy.same(toy.weights_of(task), toy.weights_of(reference))
    assert result.resumed_from == first
    assert dataclasses.replace(result, resumed_from=0, seconds=0) == dataclasses.replace(expected, seconds=0)
    # The lines after the checkpoint are those of the uninterrupted run.
    assert without_time(lines) == [line for line in without_time(all_lines) if line["step"] > first]


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(toy, tmp_path, kind):
    settings, masked = settings_of("robust dual, average, early stop", steps=25)
    config, path = EngineConfig(**settings), tmp_path / "state.safetensors"
    reference, task = toy.ToyTask(), toy.ToyTask()
    toy.run_toy(reference, config, masked=masked)
    handler = signal.getsignal(kind)

    batch_of = task.retain_batch
    task.retain_batch = lambda step, phase: (os.kill(os.getpid(), kind) if step == 9 else None, batch_of(step, phase))[
        1
    ]
    with pytest.raises(InterruptedRun, match=rf"{kind.name} after step 10 of 25"):
        toy.run_toy(task, config, path=path, masked=masked)
    assert checkpoint_step(path, config_hash="cafe") == 10 and signal.getsignal(kind) is handler

    resumed = toy.ToyTask()
    toy.run_toy(resumed, config, path=path, masked=masked)
    assert toy.same(toy.weights_of(resumed), toy.weights_of(reference))


def test_a_second_signal_acts_at_once(toy):
    task = toy.ToyTask()
    task.retain_batch = lambda *_: (os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        toy.run_toy(task, EngineConfig(steps=5))


def test_a_resumed_run_remembers_its_best_check_and_its_first_probe(toy, tmp_path):
    config = EngineConfig(steps=30, stop_below=0.1, stop_every=5, checkpoint_every=7, divergence_factor=2.0)
    path = tmp_path / "state.safetensors"

    def scripted_task(scores, probe):
        task, checked = toy.scripted(scores)
        task.probe_loss = lambda: probe
        return task, checked

    # The first process meets the target at step 5 and dies before it could stop.
    first, checked = scripted_task([(0.0, 0.9)], 1.0)
    first.retain_batch = lambda step, phase: toy.ToyTask.retain_batch(first, step, phase if step < 8 else None.phase)
    with pytest.raises(AttributeError):
        toy.run_toy(first, config, path=path)
    kept = path.read_bytes()

    resumed, _ = scripted_task([(0.0, 0.5)], 1.9)
    result = toy.run_toy(resumed, config, path=path)
    assert (result.steps, result.weights_step, result.stopped_early) == (10, 5, True)
    assert toy.same(toy.weights_of(resumed), checked[0]) and [check["step"] for check in result.checks] == [5, 10]

    path.write_bytes(kept)
    with pytest.raises(DivergedError, match=r"went from 1 to 2\.1"):
        toy.run_toy(scripted_task([(0.0, 0.5)], 2.1)[0], config, path=path)


def test_a_run_stopped_after_its_last_step_only_hands_back(toy, tmp_path):
    config, path = EngineConfig(steps=5, average_half_life=2.0), tmp_path / "state.safetensors"
    reference, task, resumed = toy.ToyTask(), toy.ToyTask(), toy.ToyTask()
    toy.run_toy(reference, config)
    batch_of = task.retain_batch
    task.retain_batch = lambda step, phase: (os.kill(os.getpid(), 15) if step == 4 else None, batch_of(step, phase))[1]
    with pytest.raises(InterruptedRun):
        toy.run_toy(task, config, path=path)
    lines = []
    assert toy.run_toy(resumed, config, path=path, lines=lines).steps == 5
    assert toy.same(toy.weights_of(resumed), toy.weights_of(reference)) and lines == []


def test_outside_the_main_thread_no_handler_is_set(toy):
    before, results = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: results.append(toy.run_toy(toy.ToyTask(), EngineConfig(steps=2))))
    thread.start()
    thread.join()
    assert results[0].steps == 2 and signal.getsignal(signal.SIGTERM) is before


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(toy, tmp_path):
    path = tmp_path / "state.safetensors"
    toy.run_toy(toy.ToyTask(), EngineConfig(steps=3, checkpoint_every=2), path=path)
    for other, words in (({"config_hash": "beef"}, "cafe, not beef"), ({"seed": 4}, "--seed 3, not 4")):
        with pytest.raises(UsageError, match=words):
            toy.run_toy(toy.ToyTask(), EngineConfig(steps=3), path=path, **other)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(MissingError):
        toy.run_toy(toy.ToyTask(), EngineConfig(steps=3), path=path)
