"""Copies of a run's log: the run does not feel them, a resumed run goes on with them, an error ends them."""

import importlib.util
import json
from pathlib import Path

import pytest

from erase import run_log
from erase.logger import Logger
from erase.rundir import RunDir

spec = importlib.util.spec_from_file_location("logged_toy", Path(__file__).with_name("logged_toy.py"))
logged = importlib.util.module_from_spec(spec)
spec.loader.exec_module(logged)
SCORES = {"original/forget_accuracy": 1.0, "erased/forget_accuracy": 0.0}


class Killed(BaseException):
    """The end of a process, without the process."""


def kill():
    raise Killed


class Recorder(Logger):
    """Keeps everything in a file; what ``run.after`` takes back is marked."""

    def __init__(self, run):
        print("hello from a logger")
        self.path = run.folder / "recorder.jsonl"
        self.write("open", run.after, run.id)

    def write(self, *entry):
        with self.path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    def numbers(self, step, values):
        self.write("scores" if "erased/forget_accuracy" in values else "numbers", step, values)

    def preview(self, step, path):
        assert path.exists()
        self.write("preview", step, path.name)

    def close(self):
        self.write("close", 0, "")


class Rewinding(Recorder):
    """One that forgets what comes after."""

    rewinds = True


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    """``recorder(kind)``: use a logger class; gives a function that reads what it got."""

    def use(kind):
        monkeypatch.setattr(run_log, "logger_class", lambda name: kind)
        path = tmp_path / "run" / "loggers" / "recorder.jsonl"
        return lambda: [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    return use


def steps(entries, kind):
    return [step for name, step, _ in entries if name == kind]


def test_everything_is_copied_and_the_run_does_not_feel_it(recorder, tmp_path, capsys):
    read = recorder(Recorder)
    plain, weights = logged.logged_toy(tmp_path / "plain", ())
    seen, same_weights = logged.logged_toy(tmp_path / "run", ("recorder",))
    assert logged.toy.same(weights, same_weights) and plain.steps == seen.steps

    # The folder is the same but for the folder of the loggers.
    files = [
        {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("plain", "run")
    ]
    assert {path.parts[0] for path in files[1] - files[0]} == {"loggers"} and files[0] <= files[1]
    same = files[0] - {Path("metrics.jsonl"), Path("checkpoint/last.safetensors")}  # these hold the seconds
    assert all((tmp_path / "plain" / each).read_bytes() == (tmp_path / "run" / each).read_bytes() for each in same)

    # The copy has each line without what was not finite, the pictures, and the scores that were measured.
    entries, lines = read(), RunDir(tmp_path / "run").read_metrics()
    assert steps(entries, "numbers") == list(range(1, 13)) and steps(entries, "preview") == [0, 5, 10, 12]
    numbers = [values for name, _, values in entries if name == "numbers"]
    assert numbers == [{name: each for name, each in line.items() if name != "step"} for line in lines]
    assert ("scores", 12, SCORES) in entries and entries[-1][0] == "close"
    assert capsys.readouterr().out == ""  # stdout is the result's


@pytest.mark.parametrize(("kind", "after", "again"), [(Recorder, 10, [11, 12]), (Rewinding, 8, [9, 10, 11, 12])])
def test_a_killed_run_goes_on_with_the_same_log(recorder, tmp_path, kind, after, again):
    """The checkpoint is that of step 8; a log that cannot be taken back gets steps 9 and 10 once."""
    read = recorder(kind)
    with pytest.raises(Killed):
        logged.logged_toy(tmp_path / "run", ("recorder",), killed_at=10, kill=kill)
    first = read()
    assert steps(first, "numbers") == list(range(1, 11)) and first[0][:2] == ("open", -1)
    logged.logged_toy(tmp_path / "run", ("recorder",))
    second = read()[len(first) :]
    assert second[0] == ("open", after, first[0][2]) and first[0][2].startswith(logged.CONFIG.hash)
    assert steps(second, "numbers") == again and steps(second, "preview") == [10, 12]


@pytest.mark.parametrize("kind", [Recorder, Rewinding])
def test_a_finished_run_has_nothing_to_add_and_a_new_logger_gets_all_of_it(recorder, tmp_path, kind):
    read = recorder(kind)
    logged.logged_toy(tmp_path / "run", ("recorder",))
    first = read()

    def again():
        folder = RunDir(tmp_path / "run")
        log = run_log.RunLog(folder, logged.CONFIG, ("recorder",))
        log.open(folder.last_logged_step)
        log.scores(logged.RECORD)
        log.close()
        return read()[len(first) :]

    assert again() == []
    (tmp_path / "run" / "loggers" / "recorder.json").unlink()
    late = again()
    assert steps(late, "numbers") == list(range(1, 13)) and steps(late, "preview") == [0, 5, 10, 12]
    assert steps(late, "scores") == [12] and late[0][2] != first[0][2]


def test_what_a_log_says_that_it_holds_counts_more_than_what_was_handed_over(recorder, tmp_path):
    read = recorder(Recorder)
    with pytest.raises(Killed):
        logged.logged_toy(tmp_path / "run", ("recorder",), killed_at=10, kill=kill)
    first = len(read())
    recorder(type("Lossy", (Recorder,), {"last_step": lambda self: 6}))
    logged.logged_toy(tmp_path / "run", ("recorder",))
    assert steps(read()[first:], "numbers") == list(range(7, 13))


@pytest.mark.parametrize("place", ["__init__", "numbers", "preview", "close"])
def test_a_logger_that_fails_is_given_up_and_the_run_goes_on(recorder, tmp_path, capsys, place):
    def fail(self, *_):
        raise ConnectionError("the network is down\nat great length")

    read = recorder(type("Failing", (Recorder,), {place: fail}))
    result, weights = logged.logged_toy(tmp_path / "run", ("failing", "failing"))
    reference = logged.logged_toy(tmp_path / "plain", ())[1]
    assert result.steps == 12 and logged.toy.same(weights, reference)
    err = capsys.readouterr().err
    assert err.count("--log-to failing failed and the run goes on without it: the network is down\n") == 2
    assert "at great length" not in err and len(steps(read(), "numbers")) < 24 + 1
