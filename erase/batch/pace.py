"""The time that is left, learned from the units that are done: each kind of work by its own pace."""

from collections import defaultdict

from pipelines.files import read_json
from pipelines.text import duration

from .claims import num_alive
from .plan import Plan
from .units import Unit
from .worker import Board

Group = tuple[str, bool]  # units of one kind that count by their rows, or by their number


def group_of(unit: Unit) -> Group:
    """The units that share a pace with one."""
    return unit.kind, unit.rows > 0


def cost(unit: Unit) -> float:
    """A unit's part of its group."""
    return unit.rows or 1


class Pace:
    """Seconds that units took, by whichever worker, in this and in earlier calls."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seconds: dict[str, float] = {}  # by the unit's name

    def look(self) -> None:
        """Find the notes that are new."""
        for path in self.plan.folder.seconds_dir.glob("*.json"):
            if path.stem in self.plan.units and path.stem not in self.seconds:
                self.seconds[path.stem] = read_json(path)

    def seconds_left(self, board: Board) -> tuple[float, bool] | None:
        """Seconds for the workers that are alive, and whether that is for all kinds of work; None without evidence."""
        # Seconds per row, or per unit, of each group that has any that are done.
        spent, paid = defaultdict(float), defaultdict(float)
        for name, seconds in self.seconds.items():
            spent[group_of(self.plan.units[name])] += seconds
            paid[group_of(self.plan.units[name])] += cost(self.plan.units[name])

        # What is left, in all and where a pace is known.
        without = board.done | set(self.plan.folder.failures())
        left = [unit for unit in self.plan.units.values() if unit.name not in without]
        known = [unit for unit in left if group_of(unit) in paid]
        rows, known_rows = (sum(unit.rows for unit in units) for units in (left, known))
        if not known or (rows and not known_rows):
            return None
        work = sum(cost(unit) * spent[group_of(unit)] / paid[group_of(unit)] for unit in known)
        workers = min(max(1, num_alive(self.plan.folder.workers_dir)), len(left))
        return work / workers, known_rows == rows

    def words(self, board: Board) -> str:
        """``about 12 min left``; empty as long as nothing is known."""
        self.look()
        found = self.seconds_left(board)
        return "" if found is None else f"{'about' if found[1] else 'at least'} {duration(found[0])} left"
