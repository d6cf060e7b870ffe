"""What a run records on its way: lines in its own folder, and a copy of them in every logger that was asked for."""

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.files import read_json, write_json

from .config import ErasureConfig, config_hash
from .logger import FLAG, LoggedRun, Logger, logger_class
from .rundir import RunDir


class RunLog:
    """The log of a run. Its folder is the truth; the loggers get copies, which decide about nothing."""

    def __init__(self, folder: RunDir, config: ErasureConfig, log_to: Sequence[str]) -> None:
        self.folder, self.config, self.log_to = folder, config, log_to
        self.copies: list[Copy] = []

    def open(self, step: int) -> None:
        """Go on after ``step``, up to which the folder holds every line and none beyond; what copies lack they get."""
        self.copies = [Copy(name, self.folder, self.config, step=step) for name in self.log_to]
        for copy in self.copies:
            copy.catch_up()

    def line(self, line: dict[str, Any]) -> None:
        """Record one line."""
        self.folder.log(line)
        for copy in self.copies:
            copy.line(line)

    def preview(self, step: int) -> None:
        """Record that the picture of a step has been drawn."""
        for copy in self.copies:
            copy.preview(step, self.folder.preview_path(step))

    def scores(self, record: Mapping[str, Any]) -> None:
        """Record the scores of every model in a result record; an empty record has none."""
        values = {
            f"{model}/{name}": entry["value"]
            for model in ("original", "erased", "retrained")
            for name, entry in record.get(model, {}).items()
            if entry["value"] is not None
        }
        for copy in self.copies if values else ():
            copy.scores(self.folder.last_logged_step, values)

    def close(self) -> None:
        """End every copy; what comes later is in the folder only."""
        for copy in self.copies:
            copy.close()
        self.copies = []


class Copy:
    """The copy of one logger: opened by the first thing that it lacks, given up with the first error.

    What it holds is noted in the run folder just before it is handed over: after a kill nothing gets there twice.
    """

    def __init__(self, name: str, folder: RunDir, config: ErasureConfig, *, step: int) -> None:
        self.name, self.kind, self.folder, self.config, self.step = name, logger_class(name), folder, config, step
        self.state_path = folder.loggers_dir / f"{name}.json"
        self.logger: Logger | None = None
        self.given_up = False

        # The last step of either kind that the copy holds, and the hash of the scores.
        new = {"id": f"{config.hash}-{secrets.token_hex(3)}", "numbers": -1, "previews": -1, "scores": ""}
        self.state = read_json(self.state_path) if self.state_path.exists() else new
        self.after = self.state["numbers"]
        if self.kind.rewinds:
            self.after = min(self.after, step)
            self.rewind(self.after)

    def rewind(self, step: int) -> None:
        """Take the copy for one that holds nothing of later steps."""
        self.state |= {kind: min(self.state[kind], step) for kind in ("numbers", "previews")}

    def catch_up(self) -> None:
        """Hand over what the folder holds and the copy does not."""
        for line in self.folder.read_metrics():
            self.line(line)
        for step, path in self.folder.previews().items():
            if step <= self.step:  # a later one is of a process that was killed, and is drawn again
                self.preview(step, path)

    def line(self, line: Mapping[str, Any]) -> None:
        """Hand over the numbers of one line; a reading that was not finite stands in it as None."""
        step, values = line["step"], {name: each for name, each in line.items() if name != "step" and each is not None}
        self.hand_over("numbers", step, lambda logger: logger.numbers(step, values))

    def preview(self, step: int, path: Path) -> None:
        """Hand over the picture of one step."""
        self.hand_over("previews", step, lambda logger: logger.preview(step, path))

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over the final scores."""
        self.hand_over("scores", config_hash(dict(values)), lambda logger: logger.numbers(step, values))

    def hand_over(self, kind: str, mark: int | str, give: Callable[[Logger], None]) -> None:
        """Give the logger something, unless it holds that already."""
        if self.given_up or self.holds(kind, mark):
            return
        with Spared(self.give_up), redirect_stdout(sys.stderr):
            if self.logger is None:
                self.open()
            if not (self.given_up or self.holds(kind, mark)):
                self.state[kind] = mark
                write_json(self.state, self.state_path)
                give(self.logger)

    def holds(self, kind: str, mark: int | str) -> bool:
        """Whether the copy has come as far as a step, or has these scores."""
        return self.state[kind] == mark if kind == "scores" else self.state[kind] >= mark

    def open(self) -> None:
        """Open the log; what it says that it holds counts more than what was noted."""
        self.folder.loggers_dir.mkdir(exist_ok=True)
        run = LoggedRun(
            id=self.state["id"],
            name=self.folder.path.absolute().name,
            folder=self.folder.loggers_dir,
            config=self.config.as_dict(),
            after=self.after,
        )
        self.logger = self.kind(run)
        held = self.logger.last_step()
        if held is not None:
            self.rewind(held)
        self.catch_up()

    def give_up(self, error: Exception) -> None:
        """Copy nothing more, and say so once."""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not self.given_up:
            print(f"{FLAG} {self.name} failed and the run goes on without it: {reason}", file=sys.stderr)
        self.given_up = True

    def close(self) -> None:
        """End the copy of this process, even one that was given up."""
        if self.logger is not None:
            with Spared(self.give_up), redirect_stdout(sys.stderr):
                self.logger.close()


class Spared:
    """Inside, an error of someone else's code is told to ``give_up`` and goes no further."""

    def __init__(self, give_up: Callable[[Exception], None]) -> None:
        self.give_up = give_up

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Whether the error ends here: a request to stop does not."""
        if not isinstance(error, Exception):
            return False
        self.give_up(error)
        return True
