"""The folder of a batch: where runs, shards, records and tables lie, and what is known of failed work."""

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.errors import InterruptedRun, MissingError
from pipelines.files import read_json, write_json

LAST_LINES = 12  # of the log of a failed unit, kept beside its error


class BatchDir:
    """One batch on disk; every machine that works on it has it mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs_dir = path / "runs"
        self.shards_dir = path / "shards"
        self.shared_dir = path / "shared"  # features of real images
        self.records_dir = path / "records"
        self.tables_dir = path / "tables"
        self.results_path = path / "results.jsonl"
        self.report_path = path / "report.html"
        self.claims_dir = path / "work" / "claims"
        self.workers_dir = path / "work" / "workers"
        self.failed_dir = path / "work" / "failed"
        self.logs_dir = path / "work" / "logs"
        self.seconds_dir = path / "work" / "seconds"  # how long each unit took

    def create(self) -> None:
        """Make the folders of the work."""
        for folder in (self.claims_dir, self.workers_dir, self.failed_dir, self.logs_dir, self.seconds_dir):
            folder.mkdir(parents=True, exist_ok=True)

    def log_path(self, unit: str) -> Path:
        """Where a unit of work writes what it has to say."""
        return self.logs_dir / f"{unit}.txt"

    def note_seconds(self, unit: str, seconds: float) -> None:
        """Keep how long a unit took."""
        write_json(seconds, self.seconds_dir / f"{unit}.json")

    def failures(self) -> dict[str, dict[str, Any]]:
        """What went wrong, by unit: its title, the error and the last lines of its log."""
        found = {}
        for path in sorted(self.failed_dir.glob("*.json")):
            try:
                found[path.stem] = read_json(path)
            except MissingError:  # another process has just taken it away
                continue
        return found

    def forget_failures(self) -> None:
        """What failed before may be tried again."""
        for path in self.failed_dir.glob("*.json"):
            path.unlink(missing_ok=True)


class Attempt:
    """A block that may fail without stopping the other work: the error goes into the log and is kept as a failure.

    A stop on request is no failure and leaves the block.
    """

    def __init__(self, folder: BatchDir, unit: str, title: str) -> None:
        self.folder, self.unit, self.title = folder, unit, title

    def __enter__(self) -> "Attempt":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep an error; tell whether it was kept."""
        if not isinstance(error, Exception) or isinstance(error, InterruptedRun):
            return False
        log_path = self.folder.log_path(self.unit)
        with log_path.open("a") as stream:
            stream.write("".join(traceback.format_exception(error)))
        lines = log_path.read_text(errors="replace").splitlines()[-LAST_LINES:]
        failure = {"title": self.title, "error": f"{type(error).__name__}: {error}", "log": lines}
        write_json(failure, self.folder.failed_dir / f"{self.unit}.json")
        return True
