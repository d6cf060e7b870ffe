"""Results as JSON lines: one as soon as a job ends, nothing lost with what fails or is killed."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from pipelines.files import write_text

Line = dict[str, Any]
Job = TypeVar("Job")


def finished(
    jobs: Sequence[Job], carry_out: Callable[[Job], Line], *, workers: int, title: str
) -> Iterator[tuple[Job, Line]]:
    """Carry out jobs in processes, and yield each with its result as it ends.

    A job that fails does not stop the others; at the end the failures are raised together, each with its job.
    """
    failures = []
    with ProcessPoolExecutor(workers) as pool:
        futures = {pool.submit(carry_out, job): job for job in jobs}
        for future in tqdm(as_completed(futures), total=len(jobs), desc=title, unit="job"):
            if (error := future.exception()) is None:
                yield futures[future], future.result()
            else:
                failures.append(RuntimeError(f"{futures[future]}: {error!r}"))
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(jobs)} jobs failed", failures)


def kept_lines(path: Path) -> list[Line]:
    """The lines of a result file, none without one; a last line that a kill cut short is left out."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def keep(path: Path, line: Line) -> None:
    """Append one line, on its own also after one that a kill cut short."""
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):
        write_text(text[: text.rfind("\n") + 1], path)
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
