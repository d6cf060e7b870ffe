"""Runs that two processes share: the numbers of one process, and one end for both."""

import json
import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from erase.checkpoint import checkpoint_step
from erase.config import erasure_from_dict, read_yaml
from erase.method import method_class, method_names
from pipelines.files import read_json

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("ranks_worker.py")
SIZES = {"forget_batch_size": 7, "retain_batch_size": 9}  # two unequal parts each
SHARED = ("selective_amnesia", "salun")  # with a penalty and with masks: what is shared is the step, not the gradients
ONE_STEP = {"optimizers": "shared", "update": "joint"}
CASES = {
    f"{optimizers} {name}": {"method": name, "options": {}, "engine": {**SIZES, "optimizers": optimizers}}
    for name in method_names()
    if method_class(name).trains
    for optimizers in (("dual", "shared") if name in SHARED else ("dual",))
}
VARIANTS = {
    "mixture drawn for all rows": ("retain_posterior", {"replacement": "posterior"}, {}),
    "mixture summed": ("retain_posterior", {"mixture": "sum"}, {}),
    "NPO": ("gradient_ascent", {"bound": "npo", "forget_vlb": "full", "forget_label_dropout": 0.3}, {}),
    "fixed penalty": ("selective_amnesia", {"ewc_weight": 3.0, "surrogate": "gaussian_latents"}, {}),
    "label attackers": (
        "retain_posterior",
        {},
        {"robust": True, "robust_target": "label", "robust_label_rows": 3, "robust_label_steps": 2},
    ),
    "simulated attacker": ("retain_posterior", {}, {"robust": True, "robust_steps": 3, "robust_learning_rate": 1e-2}),
    "two phases": ("sfron", {}, {"forget_steps": 2, "retain_steps": 2, "forget_clip": 0.1}),
    "joint": ("salun", {}, {**ONE_STEP, "clip_order": "clip-mask", "forget_weight": 0.3}),
    "projected": ("relabel", {}, {**ONE_STEP, "update": "simultaneous", "combine": "pcgrad"}),
}
CASES |= {
    name: {"method": method, "options": options, "engine": {**SIZES, **engine}}
    for name, (method, options, engine) in VARIANTS.items()
}


def scenarios_in(runs: Path, model: Path) -> dict[str, dict[str, Any]]:
    """Command lines by name, with what goes wrong in each."""
    options = "run three --method gradient_ascent --protocol none --device cpu --replay-per-class 2"
    common = [*options.split(), "--forget-batch-size", "3", "--retain-batch-size", "5", "--model", str(model)]

    def line(name: str, *more: str) -> list[str]:
        return [*common, "--output", str(runs / name), *more]

    stopped = line("stopped", "--steps", "20000", "--checkpoint-every", "20")
    return {
        "whole": {"arguments": line("whole", "--steps", "4", "--json")},
        "plan": {"arguments": line("plan", "--dry-run")},
        "small batch": {"arguments": line("small", "--retain-batch-size", "1")},
        "unlike": {"arguments": line("unlike"), "breaks": "seed"},
        "diverged": {"arguments": line("diverged", "--steps", "30", "--checkpoint-every", "3"), "breaks": "loss"},
        "unsaved": {"arguments": line("unsaved", "--steps", "2"), "breaks": "save"},
        "stopped": {"arguments": stopped, "until": str(runs / "stopped" / "checkpoint" / "last.safetensors")},
        "other command": {"arguments": ["methods"]},
    }


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A function that runs the worker at its first call and gives its folder."""
    folder, ends = tmp_path_factory.mktemp("ranks"), []

    def launch(workspace: Any, model: Path) -> Path:
        if not ends:
            (folder / "cases.pickle").write_bytes(pickle.dumps((workspace, CASES)))
            (folder / "scenarios.json").write_text(json.dumps(scenarios_in(folder / "runs", model)))
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "ERASE_CACHE": str(folder / "cache")}
            command = [sys.executable, str(WORKER), str(folder)]
            ends.append(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300))
        assert ends[0].returncode == 0, ends[0].stderr
        return folder

    return launch


@pytest.fixture
def folder(launched, make_workspace, tiny_folder):
    """What the worker left."""
    return launched(make_workspace(), tiny_folder)


@cache
def outcomes(folder: Path) -> list[dict[str, Any]]:
    """The numbers of one process and of two."""
    return [torch.load(folder / f"{world}.pt") for world in (1, 2)]


@pytest.fixture
def measured(folder):
    """What one process and what the first of two found in every case."""
    return outcomes(folder)


@pytest.fixture
def scenarios(folder):
    """Folder of the runs, exit codes of both processes by scenario, and what each printed: out and err of 0, of 1."""
    codes = read_json(folder / "codes.json")
    streams = [f"{rank}.{stream}" for rank in (0, 1) for stream in ("out", "err")]
    printed = {name: [(folder / name / each).read_text() for each in streams] for name in codes}
    return folder / "runs", codes, printed


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_gradients_and_the_weights_of_one(case, measured):
    one, two = (each[case] for each in measured)
    for mine, theirs in zip(two["gradients"], one["gradients"], strict=True):
        mine, theirs = (torch.cat([each.flatten() for each in side]) for side in (mine, theirs))
        assert theirs.norm() > 0 and (mine - theirs).norm() <= 1e-5 * theirs.norm()
    assert two["losses"] == [pytest.approx(each, rel=1e-5) for each in one["losses"]]
    assert two["probe"] == pytest.approx(one["probe"], rel=1e-5)
    for mine, theirs in zip(two["weights"], one["weights"], strict=True):
        assert mine.dtype == torch.float64 and (mine - theirs).abs().max() <= 1e-8


def test_labels_of_a_whole_batch_are_drawn_as_torch_draws_them(make_workspace, method_of):
    workspace, method = make_workspace(), method_of("retain_posterior", replacement="posterior")
    batch = method.forget_batch(workspace, 0, 0, 50)
    probabilities = workspace.posterior.retained(batch.noised, (3,))
    expected = torch.multinomial(probabilities, 1, generator=batch.generator("posterior draw"))[:, 0]
    assert torch.equal(method.drawn_labels(workspace, batch), expected)


def test_both_ranks_end_with_the_same_bits(measured):
    first, second = measured[1]["weights on other ranks"]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))


def test_evidence_and_samples_are_those_of_one_process(measured):
    one, two = (each["shared work"] for each in measured)
    torch.testing.assert_close(two["fisher"], one["fisher"], rtol=1e-4, atol=1e-9)
    assert (two["mask"] != one["mask"]).sum() <= 2  # weights level with the last place but for rounding
    assert (two["images"].int() - one["images"].int()).abs().max() <= 1
    assert (two["replay"] - one["replay"]).abs().max() <= 1e-5 * one["replay"].abs().max()
    assert torch.equal(two["labels"], one["labels"])


def test_a_shared_run_writes_one_folder_and_prints_once(scenarios):
    runs, codes, printed = scenarios
    assert codes["whole"] == [0, 0], printed["whole"]
    first, _, second, silent = printed["whole"]
    assert json.loads(first)["run_dir"] == str(runs / "whole") and (second, silent) == ("", "")
    assert read_json(runs / "whole" / "status.json")["state"] == "complete"
    assert read_json(runs / "whole" / "env.json")["processes"] == "2"
    lines = [json.loads(each) for each in (runs / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in lines] == [1, 4]


def test_a_plan_is_printed_once_and_counts_the_processes(scenarios):
    runs, codes, printed = scenarios
    assert codes["plan"] == [0, 0] and "on 2 processes" in printed["plan"][0] and printed["plan"][2:] == ["", ""]
    assert not (runs / "plan").exists()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("small batch", 2, "--retain-batch-size 1 must be at least the number of processes, 2"),
        ("unlike", 2, "process 1 of the launch was given configuration"),
        ("other command", 2, "`erase methods` is the work of one process and 2 were launched"),
        ("diverged", 5, "the forget loss or gradient is not finite; the weights of step 3 are kept"),
    ],
)
def test_an_error_ends_both_with_one_sentence(scenarios, name, code, words):
    _, codes, printed = scenarios
    assert codes[name] == [code, code]
    assert words in printed[name][1] and printed[name][3] == ""


def test_a_diverged_run_keeps_its_last_good_model_and_says_why(scenarios):
    runs = scenarios[0]
    assert read_json(runs / "diverged" / "status.json")["state"] == "diverged"
    assert (runs / "diverged" / "last-good" / "model_index.json").exists()


def test_an_unexpected_error_of_the_first_ends_the_other(scenarios):
    _, codes, printed = scenarios
    assert codes["unsaved"] == [1, 1]
    assert "no space left on device" in printed["unsaved"][1] and printed["unsaved"][3] == ""


def test_a_signal_to_all_leaves_a_state_to_go_on_from(scenarios):
    runs, codes, printed = scenarios
    assert codes["stopped"] == [75, 75], printed["stopped"]
    assert "stopped by SIGTERM after step" in printed["stopped"][1]
    folder = runs / "stopped"
    status = read_json(folder / "status.json")
    assert status["state"] == "interrupted"
    config_hash = erasure_from_dict(read_yaml(folder / "config.yaml")).hash
    step = checkpoint_step(folder / "checkpoint" / "last.safetensors", config_hash=config_hash)
    assert f"after step {step} of 20000" in status["reason"]
