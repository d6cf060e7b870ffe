"""A worker: takes the next unit of work that is ready, does it, and goes on until there is none left.

Every executor starts workers and nothing else; any number of them, on any machines, share a batch through its folder.
``python -m erase.batch.worker JOBS.yaml`` is one worker.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..api.devices import one_thread
from ..interrupt import stoppable
from .claims import Worker, is_live
from .folder import Attempt, BatchDir
from .jobs import read_jobs
from .loaded import Loaded
from .plan import Plan, make_plan
from .units import Unit

PAUSE = 1.0  # seconds before a worker that waits for others looks again


@dataclass
class Board:
    """What is known of every unit: what was done once stays done while the process lives."""

    plan: Plan
    done: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Find the units that have been finished since."""
        for unit in self.plan.units.values():
            if unit.name not in self.done and self.are_done(unit.needs) and unit.is_done(self.plan.folder):
                self.done.add(unit.name)

    def are_done(self, needs: tuple[str, ...]) -> bool:
        """Whether all the units that one needs are done."""
        return self.done.issuperset(needs)

    def open_units(self) -> list[Unit]:
        """The units that are ready and did not fail."""
        failed = self.plan.folder.failures()
        return [
            unit
            for unit in self.plan.units.values()
            if unit.name not in self.done and unit.name not in failed and self.are_done(unit.needs)
        ]


def work(plan: Plan, *, told: Callable[[Board], None] = lambda board: None) -> Board:
    """Work until nothing is left that this worker could do; ``told`` hears of the board before each unit."""
    plan.folder.create()
    board, loaded, last = Board(plan), Loaded(plan.folder), ""
    with Worker(plan.folder.workers_dir).alive() as worker, stoppable("working on the batch"), one_thread():
        while True:
            board.look()
            told(board)
            open_units = board.open_units()
            if not open_units:
                return board
            unit = claimed(open_units, plan.folder, worker, last=last)
            if unit is None:  # others are at everything that is open
                time.sleep(PAUSE)
                continue
            carry_out(unit, plan.folder, loaded)
            last = unit.model


def claimed(units: list[Unit], folder: BatchDir, worker: Worker, *, last: str) -> Unit | None:
    """A unit that this worker has claimed: of the model that it has loaded, or else of one that nobody works on."""
    now = worker.now()
    taken = {
        unit.model
        for unit in units
        if is_live(folder.claims_dir / unit.name, folder.workers_dir, now=now, host=worker.host)
    }
    for unit in sorted(units, key=lambda unit: (unit.model != last, unit.model in taken)):
        if worker.claim(folder.claims_dir / unit.name):
            return unit
    return None


def carry_out(unit: Unit, folder: BatchDir, loaded: Loaded) -> None:
    """Do one unit, unless another worker has finished it meanwhile, and give the claim back."""
    try:
        if unit.is_done(folder):
            return
        with Attempt(folder, unit.name, unit.title), logged(folder.log_path(unit.name)):
            begun, started = folder.log_path(unit.name).stat().st_size > 0, time.monotonic()
            print(unit.title, file=sys.stderr)
            unit.carry_out(folder, loaded)
            seconds = time.monotonic() - started
            print(f"done in {seconds:.1f} s", file=sys.stderr)
            if not begun:  # what goes on from an earlier attempt says nothing about the whole
                folder.note_seconds(unit.name, seconds)
    finally:
        (folder.claims_dir / unit.name).unlink(missing_ok=True)


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """What the block says goes to the end of a file."""
    with path.open("a") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


def start(jobs_path: str) -> None:
    """One worker on a jobs file, as executors start it."""
    work(make_plan(read_jobs(Path(jobs_path))))


if __name__ == "__main__":
    start(sys.argv[1])
