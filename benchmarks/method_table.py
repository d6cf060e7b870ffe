"""Every method at its defaults on the digits model: the figures of the README's table.

python -m benchmarks.method_table             every method, a minute or two each and `retrain` a quarter of an hour
python -m benchmarks.method_table sfron esd   these alone; rows that are there already stay in the table
"""

import argparse
from collections.abc import Mapping

from benchmarks.erasures import ORIGINAL, RESULTS, Job, Row, done_rows, run_jobs
from erase.method import method_names
from erase.rundir import environment
from pipelines.files import write_json
from pipelines.text import markdown_table

FORGET_CLASS = 3
COLUMNS = {  # shares
    "forget_accuracy": "forget accuracy",
    "restored": "row put back",
    "forget_precision": "looks real",
    "retain_accuracy": "retain accuracy",
}


def job(method: str) -> Job:
    """One method at its defaults, scored over 1,000 images of the class and 1,000 of the others."""
    return Job(method=method, forget_class=FORGET_CLASS, num_images=1000, restore=True, also=("forget_precision",))


def markdown(results: Mapping[str, Row]) -> str:
    """The figures of the README's table."""
    rows = [[method if method == ORIGINAL else f"`{method}`", *cells(row)] for method, row in results.items()]
    return markdown_table(["method", *COLUMNS.values(), "Frechet"], rows, text_columns=1)


def cells(row: Row) -> list[str]:
    """One method's figures; a word in the place of the first where there are none."""
    if "diverged" in row:
        return ["diverged", *[""] * len(COLUMNS)]
    return [*(f"{row[column]:.1%}".replace("%", " %") for column in COLUMNS), f"{row['frechet']:.2f}"]


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    parser.add_argument("methods", nargs="*", help="[default: every method]")
    arguments = parser.parse_args()
    if unknown := set(arguments.methods) - set(method_names()):
        parser.error(f"no method is called {', '.join(sorted(unknown))}: there are {', '.join(method_names())}")
    path, jobs = RESULTS / "method_table.jsonl", {method: job(method) for method in (ORIGINAL, *method_names())}
    wanted = {ORIGINAL, *(arguments.methods or method_names())}
    run_jobs(
        [each for method, each in jobs.items() if method in wanted], path, workers=arguments.workers, title="methods"
    )
    done = done_rows(path)
    results = {
        method: done[each.key, each.config().hash]
        for method, each in jobs.items()
        if (each.key, each.config().hash) in done
    }
    summary = {"forget_class": FORGET_CLASS, "results": results, "environment": environment()}
    write_json(summary, RESULTS / "method_table.json")
    print(markdown(results))


if __name__ == "__main__":
    main()
