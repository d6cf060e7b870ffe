"""Run directories: claimed, taken up again, or refused before anything is written."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from erase.config import EngineConfig, ErasureConfig, erasure_from_dict, read_yaml
from erase.rundir import RunDir, cache_dir, find_run
from pipelines.errors import MissingError, UsageError
from pipelines.versions import PACKAGES

CONFIG = ErasureConfig(model="tiny", forget_classes=(3,), method="sfron", engine=EngineConfig(steps=5))
STEPS_7 = dataclasses.replace(CONFIG, engine=EngineConfig(steps=7), seed=4)


def test_a_claim_writes_the_configuration_and_the_environment(tmp_path):
    run = RunDir(tmp_path / "runs" / "one")
    run.check(CONFIG)
    assert not (tmp_path / "runs").exists() and run.state == "new"  # checking writes nothing
    run.claim(CONFIG)
    assert erasure_from_dict(read_yaml(run.path / "config.yaml")) == CONFIG
    facts = json.loads((run.path / "env.json").read_text())
    assert (
        set(PACKAGES) < set(facts) and torch.__version__.startswith(facts["torch"]) and facts["python"].startswith("3.")
    )
    assert sorted(each.name for each in run.path.iterdir()) == [
        "checkpoint",
        "config.yaml",
        "env.json",
        "eval",
        "samples",
    ]
    assert find_run(run.path).path == run.path


def test_the_same_configuration_takes_the_folder_up_again(tmp_path):
    run = RunDir(tmp_path / "run")
    run.claim(CONFIG)
    before = (run.path / "config.yaml").read_bytes()
    run.log({"step": 1})
    RunDir(tmp_path / "run").claim(CONFIG)
    watched = dataclasses.replace(CONFIG, engine=EngineConfig(steps=5, log_every=1, preview_every=2))
    RunDir(tmp_path / "run").claim(watched)
    assert (run.path / "config.yaml").read_bytes() == before and run.read_metrics() == [{"step": 1}]


def test_an_existing_empty_folder_may_be_claimed(tmp_path):
    RunDir(tmp_path).claim(CONFIG)
    assert (tmp_path / "config.yaml").exists()


def test_a_refused_run_leaves_no_folder_and_one_that_has_begun_stays(tmp_path):
    for begun in ("metrics.jsonl", "checkpoint/last.safetensors", "samples/before.png"):
        folder = RunDir(tmp_path / "run")
        folder.claim(CONFIG)
        folder.set_status("erasing")
        (folder.path / begun).touch()
        folder.abandon()
        assert folder.state == "erasing" and folder.config_path.exists()
        (folder.path / begun).unlink()
        folder.abandon()
        assert not folder.path.exists()


def test_a_refused_run_leaves_a_folder_that_was_there_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunDir(Path("."))
    folder.claim(CONFIG)
    folder.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_cut_short_can_be_repeated(tmp_path, monkeypatch):
    """Whatever was made first, the folder is known as a run of this configuration."""
    run, mkdir = RunDir(tmp_path / "run"), Path.mkdir

    def die(path, *arguments, **options):
        if path.parent == run.path:
            raise KeyboardInterrupt
        mkdir(path, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "mkdir", die)
        run.claim(CONFIG)
    assert run.path.exists()
    run.claim(CONFIG)


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    run = RunDir(tmp_path / "run")
    run.claim(CONFIG)
    with pytest.raises(UsageError, match=r"holds a run of another configuration \(seed, steps differ\)"):
        run.claim(STEPS_7)
    assert erasure_from_dict(read_yaml(run.path / "config.yaml")) == CONFIG


@pytest.mark.parametrize("name", ["picture.png", ".hidden", "model/model_index.json"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, name):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"--output .*mine holds something other than a run"):
        RunDir(tmp_path / "mine").claim(CONFIG)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("text", ["title: my page\n", "- a list\n", "a: [1\n", "engine: {lr: 3}\n", ""])
def test_a_configuration_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(
        UsageError, match=r"--output .* holds something other than a run: .*(config\.yaml|not an option)"
    ):
        RunDir(tmp_path).claim(CONFIG)
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]


def test_a_file_in_place_of_the_folder_or_above_it_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"--output .*file is a file"):
        RunDir(tmp_path / "file").check(CONFIG)
    for below in ("run", "deep/er/run"):
        with pytest.raises(UsageError, match=r"cannot be written: .*file is a file"):
            RunDir(tmp_path / "file" / below).claim(CONFIG)


@pytest.mark.parametrize("where", ["run", "new/deep/run"])
def test_a_place_without_permission_is_refused(tmp_path, monkeypatch, where):
    (tmp_path / "run").mkdir()
    locked = tmp_path / "run" if where == "run" else tmp_path
    access = os.access  # a superuser may write anywhere, so a refusal has to be made up
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    with pytest.raises(UsageError, match=rf"--output .*{where} cannot be written: no permission in {locked}$"):
        RunDir(tmp_path / where).claim(CONFIG)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run"] and not any((tmp_path / "run").iterdir())


def test_a_relative_path_is_checked_where_it_will_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunDir(Path("runs") / "one").claim(CONFIG)
    assert (tmp_path / "runs" / "one" / "config.yaml").exists()


def test_a_line_cut_short_is_left_out_and_written_again(tmp_path):
    run = RunDir(tmp_path)
    assert run.read_metrics() == []
    for step in (1, 10, 20, 30):
        run.log({"step": step, "forget_loss": step / 3})
    whole = run.metrics_path.read_text()
    run.metrics_path.write_text(whole + '{"step": 40, "forget_lo')
    assert [line["step"] for line in run.read_metrics()] == [1, 10, 20, 30]

    run.truncate_metrics(20)
    assert run.read_metrics() == [{"step": step, "forget_loss": step / 3} for step in (1, 10, 20)]
    run.log({"step": 30, "forget_loss": 10.0})
    assert run.metrics_path.read_text() == whole
    run.truncate_metrics(0)
    assert run.read_metrics() == [] and [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncating_keeps_lines_up_to_the_checkpoint(tmp_path):
    """The checkpoint after step 20 has seen the line of step 20."""
    run = RunDir(tmp_path)
    run.truncate_metrics(20)
    assert run.read_metrics() == []
    run.metrics_path.write_text('{"step": 20}\n{"step": 21}')
    run.truncate_metrics(20)
    assert run.metrics_path.read_text() == '{"step": 20}\n'


def test_the_status_is_the_last_one_written(tmp_path):
    run = RunDir(tmp_path)
    run.set_status("erasing")
    run.set_status("diverged", reason="lower it")
    assert run.state == "diverged"
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "state": "diverged",
        "reason": "lower it",
        "seconds": 0,
    }
    run.set_status("complete", seconds=1.5)
    assert json.loads((tmp_path / "status.json").read_text())["seconds"] == 1.5


def test_a_folder_without_a_configuration_is_no_run(tmp_path):
    with pytest.raises(MissingError, match=r"is not a run directory: it has no config\.yaml"):
        find_run(tmp_path)


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "named"))
    assert cache_dir() == tmp_path / "named"
    monkeypatch.delenv("ERASE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "erase"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "erase"
