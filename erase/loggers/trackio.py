"""Trackio: a local SQLite database below ``$TRACKIO_DIR``, or the Space or server of the environment."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..logger import PROJECT, LoggedRun, Logger

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # the variables that take the log off this machine


class Trackio(Logger):
    """One run of Trackio, known by its name."""

    def __init__(self, run: LoggedRun) -> None:
        import trackio

        self.trackio, name = trackio, f"{run.name} {run.id}"
        self.held = None
        if not any(map(os.environ.get, ELSEWHERE)):  # lines are written in batches: a kill may have lost the last ones
            held = trackio.SQLiteStorage.get_max_step_for_run(PROJECT, name)
            self.held = -1 if held is None else held
        self.run = trackio.init(project=PROJECT, name=name, config=dict(run.config), resume="allow", embed=False)

    def last_step(self) -> int | None:
        return self.held

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def preview(self, step: int, path: Path) -> None:
        self.run.log({"preview": self.trackio.Image(path)}, step=step)

    def close(self) -> None:
        self.trackio.finish()
