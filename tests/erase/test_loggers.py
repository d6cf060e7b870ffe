"""The contract of every file of ``erase/loggers``, and each logger for real where its package is installed."""

import json
import os
import signal
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from erase.logger import Logger, check_loggers, check_package, logger_class, logger_names
from pipelines.errors import UsageError

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("logged_toy.py")
KILL_AND_GO_ON = """
import runpy, sys
from pathlib import Path
logged = runpy.run_path(sys.argv[1], run_name="logged")
logged["logged_toy"](Path(sys.argv[2]), (sys.argv[3],))
"""


@pytest.mark.parametrize("name", logger_names())
def test_a_logger_is_a_file_an_extra_and_a_package(name, monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (needed,) = project["project"]["optional-dependencies"][name]
    assert needed.startswith(name) and "erase.loggers" in project["tool"]["setuptools"]["packages"]
    assert issubclass(logger_class(name), Logger) and not logger_class(name).__abstractmethods__
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"^--log-to {name} needs an extra: pip install 'dit-erase\[{name}\]'"):
        check_loggers([name])


def test_names_are_checked():
    check_loggers(())
    with pytest.raises(UsageError, match=r"--log-to 'mlflow' is not one of tensorboard, trackio, wandb"):
        check_loggers(["mlflow"])
    with pytest.raises(UsageError, match=r"--log-to wandb wandb names a logger twice"):
        check_loggers(["wandb", "wandb"])
    with pytest.raises(UsageError, match=r"^log_to='wandb' is one string: give a tuple"):
        check_loggers("wandb")


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    """Loggers leave folders of their own name in the working directory, which Python imports as empty packages."""
    (tmp_path / "wandb_like").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"needs an extra: pip install 'dit-erase\[wandb_like\]'$"):
        check_package("wandb_like")


def killed_and_resumed(name, folder, **environment):
    """A run that is killed after step 10, its checkpoint at 8, and taken up again in another process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                   "HOME": str(folder.parent / "home"), **environment}  # fmt: skip
    (folder.parent / "home").mkdir()
    shared = {"cwd": folder.parent, "env": environment, "capture_output": True, "text": True, "check": False}
    killed = subprocess.run([sys.executable, str(SCRIPT), str(folder), name], **shared)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = subprocess.run([sys.executable, "-c", KILL_AND_GO_ON, str(SCRIPT), str(folder), name], **shared)
    assert resumed.returncode == 0 and "failed" not in resumed.stderr, resumed.stderr
    assert resumed.stdout == ""


def test_tensorboard_shows_each_step_once(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install 'dit-erase[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_and_resumed("tensorboard", tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "loggers" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    shown = events.Tags()
    assert {"forget_loss", "retain_grad_norm", "probe_loss", "erased/forget_accuracy"} <= set(shown["scalars"])
    assert [event.step for event in events.Scalars("forget_loss")] == list(range(1, 13))
    assert [event.step for event in events.Images("preview")] == [0, 5, 10, 12]
    assert [(event.step, event.value) for event in events.Scalars("original/forget_accuracy")] == [(12, 1.0)]
    (text,) = events.Tensors("configuration/text_summary")
    assert b"method: sfron" in text.tensor_proto.string_val[0]


def wandb_records(path):
    """The records of an offline run: LevelDB's log format, in blocks of 32 KiB after seven bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place < len(data):
        room = 2**15 - place % 2**15
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@pytest.mark.slow
def test_wandb_has_each_step_once(tmp_path):
    pytest.importorskip("wandb", reason="pip install 'dit-erase[wandb]'")
    killed_and_resumed("wandb", tmp_path / "run", WANDB_MODE="offline")
    (path,) = (tmp_path / "run" / "loggers" / "wandb").glob("offline-run-*/*.wandb")  # the dead process's is gone
    seen, previews, runs = [], [], []
    for record in wandb_records(path):
        runs += [record.run] if record.HasField("run") else []
        items = {each.key or each.nested_key[0]: each.value_json for each in record.history.item}
        seen += [int(items["step"])] if "forget_loss" in items else []
        previews += [int(items["step"])] if "preview" in items else []
    assert seen == list(range(1, 13)) and previews == [0, 5, 10, 12]
    state = json.loads((tmp_path / "run" / "loggers" / "wandb.json").read_text())
    assert {run.run_id for run in runs} == {state["id"]} and "sfron" in str(runs[0].config)


@pytest.mark.slow
def test_trackio_has_each_step_once(tmp_path):
    pytest.importorskip("trackio", reason="pip install 'dit-erase[trackio]'")
    killed_and_resumed("trackio", tmp_path / "run", TRACKIO_DIR=str(tmp_path / "trackio"))
    state = json.loads((tmp_path / "run" / "loggers" / "trackio.json").read_text())
    read = f"""import json, trackio
logs = trackio.SQLiteStorage.get_logs("dit-erase", "run {state["id"]}")
print(json.dumps([[line["step"], "preview" in line, "forget_loss" in line] for line in logs]))"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    found = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True, check=True)
    lines = json.loads(found.stdout)
    assert sorted(step for step, _, numbers in lines if numbers) == list(range(1, 13))
    assert sorted(step for step, shown, _ in lines if shown) == [0, 5, 10, 12]


def test_wandb_without_an_account_is_refused_before_the_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install 'dit-erase[wandb]'")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "login", refuse)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(UsageError, match=r"--log-to wandb: No API key configured\. Or set WANDB_MODE=offline"):
        check_loggers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_loggers(["wandb"])
