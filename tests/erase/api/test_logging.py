"""Runs that are logged elsewhere: the same run, refused early or not at all."""

from pathlib import Path

import pytest

from erase import run_log
from erase.api import requesting, run
from erase.cli import main
from erase.logger import Logger
from erase.rundir import RunDir
from pipelines.errors import UsageError

QUICK = {"steps": 4, "forget_batch_size": 8, "retain_batch_size": 8, "replay_per_class": 4, "log_every": 1}


class Noted(Logger):
    """Notes what it is given, for all runs together."""

    seen: list = []  # noqa: RUF012

    def __init__(self, run):
        self.seen.append(("open", run.config["method"]))

    def numbers(self, step, values):
        self.seen.append((step, sorted(values)))

    def preview(self, step, path):
        self.seen.append((step, path.name))

    def close(self):
        self.seen.append(("close", ""))


@pytest.fixture
def go(tiny_folder, tmp_path, erase_cache, monkeypatch):
    """``go("name", log_to=("noted",))``: an unscored run of the tiny model in ``tmp_path / name``."""
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))
    monkeypatch.setattr(requesting, "check_loggers", lambda names: None)
    monkeypatch.setattr(run_log, "logger_class", lambda name: Noted)
    monkeypatch.setattr(Noted, "seen", [])

    def make(name, *, log_to=(), **options):
        return run(
            str(tiny_folder), "three", method="gradient_ascent", options={**QUICK, **options}, protocol="none",
            output_dir=tmp_path / name, progress=False, log_to=log_to,
        )  # fmt: skip

    return make


def files_of(folder):
    """The bytes of every file of a run but those that hold times, and those of the loggers."""
    timed = ("metrics.jsonl", "status.json")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in timed]
    return {each.relative_to(folder): each.read_bytes() for each in paths if "loggers" not in each.parts}


def test_a_logged_run_with_previews_is_the_same_run(go, tmp_path):
    """Previews of a run that is not scored lie in its folder all the same, and change no weight."""
    plain, watched = go("plain"), go("watched", preview_every=3)
    logged = go("logged", preview_every=3, log_to=("noted",))
    assert plain.config.hash == watched.config.hash and watched.config == logged.config
    assert files_of(tmp_path / "watched") == files_of(tmp_path / "logged")
    weights = Path("model/transformer/diffusion_pytorch_model.safetensors")
    assert files_of(tmp_path / "plain")[weights] == files_of(tmp_path / "logged")[weights]
    assert list(RunDir(tmp_path / "logged").previews()) == [0, 3, 4] and not RunDir(tmp_path / "plain").previews()

    # All of it was copied, in order.
    assert [first for first, _ in Noted.seen] == ["open", 0, 1, 2, 3, 3, 4, 4, "close"] and Noted.seen[0] == (
        "open",
        "gradient_ascent",
    )
    assert {"forget_loss", "retain_loss", "probe_loss", "forget_learning_rate"} <= set(Noted.seen[2][1])


def test_a_finished_run_is_not_logged_again_and_one_that_was_not_is_logged_late(go):
    go("run")
    go("run", log_to=("noted",))
    assert [first for first, _ in Noted.seen] == ["open", 1, 2, 3, 4, "close"]
    go("run", log_to=("noted",))
    assert len(Noted.seen) == 6


def test_a_logger_is_refused_before_anything_is_made(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--log-to 'mlflow' is not one of tensorboard, trackio, wandb"):
        run(str(tiny_folder), "three", log_to=["mlflow"])
    with pytest.raises(SystemExit) as ended:
        main(["run", "three", "--model", str(tiny_folder), "--log-to", "mlflow"])
    assert ended.value.code == 2 and "error: --log-to 'mlflow'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
