"""How far a batch is: in numbers for anyone who looks, and live while it works."""

import platform
import sys
import time
from typing import Any

from pipelines.progress import bar_of
from pipelines.text import counted

from .claims import is_live, num_alive
from .pace import Pace
from .plan import Plan
from .units import KINDS
from .worker import Board


class Progress:
    """A bar over all units, with images a second and the time that is left, once there is evidence for it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.started = time.monotonic()
        self.before: set[str] | None = None  # what was done when this began
        self.pace = Pace(plan)
        self.bar = bar_of(len(plan.units), "batch", unit="unit", shown=True, guess=False)

    def __call__(self, board: Board) -> None:
        """Show the board."""
        if self.before is None:
            self.before = set(board.done)
        self.bar.n = len(board.done)
        self.bar.set_postfix_str(self.words(board), refresh=False)
        self.bar.update(0)

    def words(self, board: Board) -> str:
        """Counts by kind, throughput and time left."""
        counts = ", ".join(f"{kind}s {done}/{count}" for kind, (done, count) in counts_of(board).items())
        now = [self.plan.units[name] for name in board.done - self.before]
        seconds = max(time.monotonic() - self.started, 1e-9)
        images = sum(unit.num_images for unit in now if unit.kind == "shard")
        failed = len(self.plan.folder.failures())
        parts = [counts, f"{images / seconds:.1f} images/s" if images else "", self.pace.words(board)]
        return ", ".join(filter(None, [*parts, f"{failed} FAILED" if failed else ""]))

    def say(self, sentence: str) -> None:
        """A sentence above the bar."""
        self.bar.write(sentence, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()


def counts_of(board: Board) -> dict[str, tuple[int, int]]:
    """Done and all units by kind."""
    units = {kind: board.plan.of_kind(kind) for kind in KINDS}
    return {kind: (sum(unit.name in board.done for unit in each), len(each)) for kind, each in units.items() if each}


def status(plan: Plan) -> dict[str, Any]:
    """How far a batch is, from its folder alone."""
    board = Board(plan)
    board.look()
    clock = {"now": time.time(), "host": platform.node()}
    return {
        "output": str(plan.folder.path),
        "units": {kind: {"done": done, "all": count} for kind, (done, count) in counts_of(board).items()},
        "done": len(board.done),
        "all": len(plan.units),
        "claimed": [
            unit.title
            for unit in plan.units.values()
            if is_live(plan.folder.claims_dir / unit.name, plan.folder.workers_dir, **clock)
        ],
        "workers": num_alive(plan.folder.workers_dir),
        "failed": failures_of(plan),
    }


def failures_of(plan: Plan) -> list[dict[str, Any]]:
    """What failed, with the last lines of its log and where all of it is."""
    return [
        {"unit": name, **failure, "log_path": str(plan.folder.log_path(name))}
        for name, failure in plan.folder.failures().items()
        if name in plan.units
    ]


def status_text(found: dict[str, Any]) -> str:
    """A status for a terminal."""
    counts = ", ".join(f"{kind}s {each['done']}/{each['all']}" for kind, each in found["units"].items())
    lines = [f"{found['output']}: {found['done']} of {counted(found['all'], 'unit')} done ({counts})"]
    lines += [f"{counted(found['workers'], 'worker')} alive", *(f"  at work: {title}" for title in found["claimed"])]
    return "\n".join([*lines, *(failure_text(each) for each in found["failed"])])


def failure_text(failure: dict[str, Any]) -> str:
    """A failed unit with the last lines of its log."""
    lines = "\n".join(f"    {line}" for line in failure["log"])
    return f"FAILED: {failure['title']}: {failure['error']}\n{lines}\n    ({failure['log_path']})"
