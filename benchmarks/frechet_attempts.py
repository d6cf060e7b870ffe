"""What lowers the Frechet distance of the shipped default on the classes where it rises by more than 15 %.

    python -m benchmarks.frechet_attempts

One setting is changed at a time; the default itself is that of ``benchmarks.ten_classes``. Resumable; three to five
minutes of a core for each erasure.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.erasures import ORIGINAL, RESULTS, Job, Row, run_jobs
from erase.configure import DEFAULT_METHOD
from erase.rundir import environment
from pipelines.text import markdown_table

CLASSES = (4, 6, 7, 9)
DEFAULT = "default"
ATTEMPTS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "two retain steps": {"retain_steps": 2},
    "450 outer steps": {"steps": 450},
    "256 images in a retain batch": {"retain_batch_size": 256},
    "forget learning rate 2e-4": {"forget_learning_rate": 2e-4},
    "no unrolled relearning": {"robust": False},
}
LIMIT = 1.15  # times the original's distance


def job(forget_class: int, attempt: str) -> Job:
    """One erasure; the default's is the very job of ``benchmarks.ten_classes``."""
    options = tuple(sorted(ATTEMPTS[attempt].items()))
    return Job(method=DEFAULT_METHOD, forget_class=forget_class, options=options, num_images=1000, restore=True)


def original(forget_class: int) -> Job:
    """The model before, on the same noise."""
    return Job(method=ORIGINAL, forget_class=forget_class, num_images=1000)


def attempt_row(attempt: str, done: Mapping[str, Row]) -> dict[str, Any]:
    """One attempt over the classes."""
    before = [done[original(label).key] for label in CLASSES]
    after = [done[job(label, attempt).key] for label in CLASSES]
    ratios = [erased["frechet"] / first["frechet"] for first, erased in zip(before, after, strict=True)]
    drops = [first["retain_accuracy"] - erased["retain_accuracy"] for first, erased in zip(before, after, strict=True)]
    return {
        "attempt": attempt,
        "frechet_ratio": dict(zip(map(str, CLASSES), ratios, strict=True)),
        "frechet_ratio_max": max(ratios),
        "forget_accuracy_max": max(erased["forget_accuracy"] for erased in after),
        "restored_max": max(erased["restored"] for erased in after),
        "retain_drop_mean": statistics.fmean(drops),
        "cpu_seconds_mean": statistics.fmean(erased["cpu_seconds"] for erased in after),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The attempts as Markdown."""
    header = ["attempt", *(f"Frechet, {label}" for label in CLASSES), "forget accuracy", "retain drop", "core s"]
    cells = [
        [
            row["attempt"],
            *(f"{row['frechet_ratio'][str(label)]:.2f}" for label in CLASSES),
            f"{100 * row['forget_accuracy_max']:.1f} %",
            f"{100 * row['retain_drop_mean']:.1f}",
            f"{row['cpu_seconds_mean']:.0f}",
        ]
        for row in rows
    ]
    return markdown_table(header, cells, text_columns=1)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    workers = parser.parse_args().workers

    shipped = [make(label) for label in CLASSES for make in (original, lambda label: job(label, DEFAULT))]
    path = RESULTS / f"ten_classes-digits-{DEFAULT_METHOD}.jsonl"
    done = dict(run_jobs(shipped, path, workers=workers, title="default"))
    changed = [job(label, attempt) for attempt in ATTEMPTS if attempt != DEFAULT for label in CLASSES]
    done |= run_jobs(changed, RESULTS / "frechet_attempts.jsonl", workers=workers, title="attempts")
    rows = [attempt_row(attempt, done) for attempt in ATTEMPTS]
    written = json.dumps({"attempts": rows, "limit": LIMIT, "environment": environment()}, indent=2)
    (RESULTS / "frechet_attempts.json").write_text(written + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
