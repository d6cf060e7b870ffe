"""The time that is left: each kind of work by the pace of its own units, and nothing without evidence."""

from types import SimpleNamespace

import pytest

from erase.batch.folder import BatchDir
from erase.batch.pace import Pace
from erase.batch.progress import Progress


@pytest.fixture
def board(tmp_path):
    """Two references, four runs of 100 or 300 rows and two probes of 1,000, nothing done."""
    rows = {"reference-0": 0, "reference-1": 0, "run-0": 100, "run-1": 300, "run-2": 100, "run-3": 300,
            "probe-0": 1000, "probe-1": 1000}  # fmt: skip
    units = {name: SimpleNamespace(name=name, kind=name.split("-")[0], rows=count) for name, count in rows.items()}
    folder = BatchDir(tmp_path)
    folder.create()
    return SimpleNamespace(plan=SimpleNamespace(units=units, folder=folder), done=set())


def finish(board, name, seconds):
    """Let a unit be done after some seconds."""
    board.done.add(name)
    board.plan.folder.note_seconds(name, seconds)


def test_the_pace_is_that_of_finished_units_of_the_same_kind(board):
    pace = Pace(board.plan)
    assert pace.words(board) == ""
    finish(board, "reference-0", 5.0)  # one more like it is left, but of the bulk of the work nothing is known
    assert pace.words(board) == ""
    finish(board, "run-0", 20.0)
    assert pace.words(board) == "at least 2 min left"  # 5 s, and 700 rows at 0.2 s; of the probes nothing is known
    assert pace.seconds_left(board) == (pytest.approx(5 + 700 * 0.2), False)
    finish(board, "run-1", 20.0)  # 400 rows in 40 s
    finish(board, "probe-0", 500.0)
    pace.look()
    assert pace.seconds_left(board) == (pytest.approx(5 + 400 * 0.1 + 1000 * 0.5), True)


def test_workers_share_what_is_left_and_failures_are_none_of_it(board):
    pace = Pace(board.plan)
    for name in ("run-0", "reference-0", "probe-0"):
        finish(board, name, 10.0)
    for number in range(2):
        (board.plan.folder.workers_dir / f"worker-{number}").touch()
    (board.plan.folder.failed_dir / "probe-1.json").write_text("{}")
    pace.look()
    assert pace.seconds_left(board) == (pytest.approx((10 + 700 * 0.1) / 2), True)
    board.done |= set(board.plan.units)
    assert pace.words(board) == ""


def test_it_is_shown_once_and_by_nobody_else(finished, planned, worked, capsys):
    """The bar's own guess, which takes all units for alike, is left out."""
    plan = finished
    progress, board = Progress(plan), worked(planned())
    board.done -= {unit.name for unit in plan.of_kind("shard")[:1]}
    progress(board)
    words = progress.words(board)
    progress.bar.refresh()
    progress.close()
    assert words.count("left") == 1 and "about" in words and "?" not in capsys.readouterr().err
