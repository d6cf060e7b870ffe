"""The command line as a user meets it: real processes, exit codes, one sentence a mistake, nothing left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from erase.cli import EXIT_CODES, LazyGroup, main
from pipelines.generate import generate_all
from pipelines.model import load, save
from pipelines.sampler import SamplerSettings

ROOT = Path(__file__).parent.parent
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def erase(*arguments: str, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
    """Run the command in a folder of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "erase" / "__main__.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "ERASE_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def sentence(done: subprocess.CompletedProcess) -> str:
    """The one line on stderr, which must be an error and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


BAD_REQUESTS = {
    "unknown class": (["run", "walrus", "--model", "digits"], 2, ["walrus", "three"]),
    "null class": (["run", "10", "--model", "digits"], 2, ["10", "null class"]),
    "no class": (["run", "--model", "digits"], 2, ["no class"]),
    "unknown method": (["run", "three", "--model", "digits", "--method", "magic"], 2, ["--method", "magic", "sfron"]),
    "option of no method": (["run", "three", "--model", "digits", "--magic", "1"], 2, ["--magic", "--replacement"]),
    "option of another method": (
        ["run", "three", "--model", "digits", "--method", "esd", "--mask-threshold", "1"],
        2,
        ["--mask-threshold", "esd", "--negative-guidance"],
    ),
    "value out of range": (["run", "three", "--model", "digits", "--steps", "0"], 2, ["--steps", "0", "at least 1"]),
    "value without a number": (
        ["run", "three", "--model", "digits", "--retain-share", "x"],
        2,
        ["--retain-share", "x"],
    ),
    "joint with dual": (["run", "three", "--model", "digits", "--update", "joint"], 2, ["joint", "dual"]),
    "constant weight with dual": (
        ["run", "three", "--model", "digits", "--forget-weight", "3"],
        2,
        ["--forget-weight"],
    ),
    "data that do not exist": (["run", "three", "--model", "digits", "--data", "nowhere"], 4, ["--data", "nowhere"]),
    "model that does not exist": (["run", "three", "--model", "no/such/model"], 4, ["--model", "no/such/model"]),
    "unknown preset": (["run", "three", "--model", "digits", "--preset", "best"], 2, ["--preset", "best", "paper"]),
    "unknown protocol": (["run", "three", "--model", "digits", "--protocol", "x"], 2, ["--protocol", "x", "small"]),
    "device that is not there": (["run", "three", "--model", "digits", "--device", "tpu"], 2, ["--device", "tpu"]),
    "run that does not exist": (["compare", "nowhere"], 4, ["nowhere"]),
    "unknown sampler": (["sample", "three", "--sampler", "euler"], 2, ["--sampler", "euler", "ddim"]),
}


@pytest.fixture
def called(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """The command in this process, for what ends before a model is loaded: a process of its own takes seconds."""

    def call(*arguments: str) -> subprocess.CompletedProcess:
        monkeypatch.chdir(here)
        monkeypatch.setenv("ERASE_CACHE", str(here / "cache"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, out, err)

    return call


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_get_one_sentence_the_right_code_and_leave_nothing(
    case: str, called: Callable, here: Path
) -> None:
    arguments, code, words = BAD_REQUESTS[case]
    done = called(*arguments)
    text = sentence(done)
    assert done.returncode == code, text
    assert all(word in text + done.stderr for word in words), done.stderr
    assert list(here.iterdir()) == []


def test_a_bad_request_of_a_real_process(called: Callable, here: Path) -> None:
    """What the cases above say of the command in this process is what a shell gets."""
    arguments, code, _ = BAD_REQUESTS["unknown class"]
    done = erase(*arguments, cwd=here)
    assert (done.returncode, sentence(done)) == (code, sentence(called(*arguments)))


def test_an_output_folder_that_holds_something_else_is_refused_and_untouched(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").write_text("years of work")
    done = erase("run", "three", "--model", "digits", "--output", "out", cwd=here)
    assert done.returncode == 2
    assert "--output out" in sentence(done)
    assert [path.name for path in (here / "out").iterdir()] == ["thesis.txt"]


def test_an_output_below_a_file_is_refused(here: Path) -> None:
    (here / "file").write_text("")
    done = erase("run", "three", "--model", "digits", "--output", "file/run", cwd=here)
    assert done.returncode == 2
    assert "--output" in sentence(done)


def test_truncated_weights_and_a_pickle_are_refused_before_anything_is_written(here: Path) -> None:
    save(load("digits"), here / "model", dtype=torch.float16)
    weights = here / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    for damaged, word in ((content[: len(content) // 2], "safetensors"), (b"\x80\x04N.", "pickle")):
        weights.write_bytes(damaged)
        done = erase("run", "three", "--model", "model", "--data", "digits", "--output", "out", cwd=here)
        assert done.returncode == 4
        assert word in sentence(done)
        assert not (here / "out").exists()
    weights.unlink()
    done = erase("run", "three", "--model", "model", "--data", "digits", "--output", "out2", cwd=here)
    assert done.returncode == 4
    assert "no weights" in sentence(done)


def test_a_users_own_eval_and_pipelines_do_no_harm(here: Path) -> None:
    (here / "eval.py").write_text("raise SystemExit('the wrong eval')")
    (here / "pipelines").mkdir()
    (here / "pipelines" / "__init__.py").write_text("raise SystemExit('the wrong pipelines')")
    done = erase("classes", "three", cwd=here, PYTHONPATH=str(here))
    assert done.returncode == 0, done.stderr
    assert "three" in done.stdout

    # From Python one sentence says what shadows what.
    code = f"import sys; sys.path[:0] = [{str(here)!r}, {str(ROOT)!r}]; import erase; erase.run"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "shadows" in done.stderr.splitlines()[-1]
    assert str(here) in done.stderr.splitlines()[-1]


def test_dry_run_prints_a_plan_and_writes_nothing(here: Path) -> None:
    done = erase("run", "three", "--model", "digits", "--dry-run", "--json", cwd=here)
    plan = json.loads(done.stdout)
    assert plan["erase"] == ["three"]
    assert plan["steps"] > 0
    assert sum(plan["seconds"].values()) > 0
    assert list(here.iterdir()) == []


def test_run_scores_reports_and_resumes_to_the_same_result(here: Path) -> None:
    arguments = ["run", "three", "--model", "digits", "--method", "gradient_ascent", "--steps", "4"]
    arguments += ["--forget-batch-size", "8", "--retain-batch-size", "8", "--output", "out", "--protocol", "none"]
    first = erase(*arguments, "--json", cwd=here)
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert summary["erased"] == ["three"]
    weights = here / "out" / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    assert json.loads((here / "out" / "status.json").read_text())["state"] == "complete"

    # The same command finds its result; another configuration is refused.
    assert erase(*arguments, "--json", cwd=here).returncode == 0
    assert weights.read_bytes() == before
    other = erase(*arguments, "--seed", "1", cwd=here)
    assert other.returncode == 2
    assert "seed" in sentence(other)


def test_sample_writes_a_picture(here: Path) -> None:
    done = erase("sample", "three", "8", "--model", "digits", "--num-images", "2", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["class_labels"], told["num_images"], told["seed"]) == ([3, 8], 2, 0)
    assert (here / "samples.png").stat().st_size > 500


def test_sample_writes_what_the_adm_evaluator_reads(here: Path) -> None:
    arguments = ["sample", "8", "three", "--model", "digits", "--num-images", "2", "--num-inference-steps", "2"]
    done = erase(*arguments, "--seed", "5", "--output", "samples.npz", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["class_labels"], told["num_images"], told["seed"]) == ([8, 3], 2, 5)
    with np.load(here / "samples.npz", allow_pickle=False) as archive:
        assert archive.files == ["arr_0", "arr_1"]
        images, labels = archive["arr_0"], archive["arr_1"]
    assert (images.dtype, images.shape) == (np.uint8, (4, 32, 32, 3)) and labels.tolist() == [8, 8, 3, 3]

    # In the order of the requests, and each pixel where it was drawn.
    settings = SamplerSettings(num_inference_steps=2)
    drawn = generate_all(load("digits"), [(8, 5), (8, 6), (3, 5), (3, 6)], settings)
    assert np.abs(drawn.permute(0, 2, 3, 1).numpy().astype(int) - images).max() <= 1


def test_methods_lists_every_method_and_the_options_of_one(here: Path) -> None:
    listed = json.loads(erase("methods", "--json", cwd=here).stdout)
    assert {"sfron", "salun", "selective_amnesia", "retain_posterior", "embedding_reset"} <= set(listed)
    shown = erase("methods", "sfron", cwd=here).stdout
    assert "--mask-threshold" in shown
    assert "2409.19732" in shown


def test_doctor_says_that_the_embedded_model_works(here: Path) -> None:
    done = erase("doctor", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["healthy"] is True


def test_the_sequence_from_a_cache_to_a_rebuilt_model(here: Path) -> None:
    """cache, run, export as a delta, apply: the rebuilt weights are the erased ones, bit for bit."""
    done = erase("cache", "digits", "--model", "digits", "--json", cwd=here)
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == 1397, done.stderr
    run = ("run", "three", "--model", "digits", "--method", "gradient_ascent", "--steps", "2", "--protocol", "none")
    done = erase(*run, "--output", "r", cwd=here)
    assert done.returncode == 0, done.stderr
    done = erase("export", "r", "--format", "delta", "--output", "delta.safetensors", "--json", cwd=here)
    assert json.loads(done.stdout)["bytes"] == (here / "delta.safetensors").stat().st_size
    done = erase("apply", "digits", "delta.safetensors", "--output", "again", cwd=here)
    assert (done.returncode, done.stdout.strip()) == (0, "again"), done.stderr
    first, second = (load_file(here / folder / WEIGHTS) for folder in ("r/model", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    # What cannot be done is one sentence.
    refused = erase("export", "r", "--format", "original", "--output", "x.pt", cwd=here)
    assert refused.returncode == 2 and "--time-embedding original" in sentence(refused)
    refused = erase("apply", "digits", "delta.safetensors", "--output", "delta.safetensors", cwd=here)
    assert refused.returncode == 2 and "is a file or not empty" in sentence(refused)
    refused = erase("probe", "r", cwd=here)
    assert refused.returncode == 4 and "has no scores" in sentence(refused)
    refused = erase(*run, "--gate", "retain_drop<=0.1", cwd=here)
    assert refused.returncode == 2 and "--gate" in sentence(refused)
    refused = erase("stats", "show", "delta.safetensors", cwd=here)
    assert refused.returncode == 4 and "no whole npz" in sentence(refused)


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items())
def test_an_error_is_one_sentence_and_its_exit_code(kind: type, code: int, monkeypatch, capsys) -> None:
    @click.command()
    def fails() -> None:
        raise kind("retain_drop<=0.02 fails: retain_drop is 0.03")

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: fails)
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == code
    assert capsys.readouterr() == ("", "error: retain_drop<=0.02 fails: retain_drop is 0.03\n")
