"""The short erasure of ``erase demo`` on every class of a digits model, without tuning for any.

python -m benchmarks.ten_classes                                the embedded model
python -m benchmarks.ten_classes --model models/digits-seed1    a model of `erase pretrain digits --seed 1`

The results are named after the last part of the model's path.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.erasures import ORIGINAL, RESULTS, Job, Row, run_jobs
from erase.cli.demo import QUICK
from erase.configure import DEFAULT_METHOD
from erase.rundir import environment
from pipelines.files import write_json
from pipelines.model_source import load_classes


def summarise(rows: dict[str, dict[str, Row]]) -> dict[str, float | int]:
    """The figures over all classes."""
    pairs = [(row["original"], row["erased"]) for row in rows.values()]
    forget = [erased["forget_accuracy"] for _, erased in pairs]
    return {
        "classes": len(pairs),
        "forget_accuracy_at_most_0.01": sum(value <= 0.01 for value in forget),
        "forget_accuracy_max": max(forget),
        "restored_max": max(erased["restored"] for _, erased in pairs),
        "retain_drop_mean": statistics.fmean(
            before["retain_accuracy"] - after["retain_accuracy"] for before, after in pairs
        ),
        "frechet_ratio_mean": statistics.fmean(after["frechet"] / before["frechet"] for before, after in pairs),
        "frechet_ratio_max": max(after["frechet"] / before["frechet"] for before, after in pairs),
        "seconds_mean": statistics.fmean(erased["seconds"] for _, erased in pairs),
    }


def main() -> None:
    """Run what is missing and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="digits", help="model folder [default: digits]")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    arguments = parser.parse_args()

    name = f"ten_classes-{Path(arguments.model).name}"
    common, options = {"model": arguments.model, "num_images": 1000}, tuple(sorted(QUICK.items()))
    jobs = {
        label: (
            Job(method=ORIGINAL, forget_class=label, **common),
            Job(method=DEFAULT_METHOD, forget_class=label, options=options, restore=True, **common),
        )
        for label in range(len(load_classes(arguments.model)))
    }
    everything = [job for pair in jobs.values() for job in pair]
    done = run_jobs(everything, RESULTS / f"{name}.jsonl", workers=arguments.workers, title="classes")
    rows = {
        str(label): {"original": done[original.key], "erased": done[erased.key]}
        for label, (original, erased) in jobs.items()
    }
    summary = {"summary": summarise(rows), "settings": QUICK, "classes": rows, "environment": environment()}
    write_json(summary, RESULTS / f"{name}.json")
    print(json.dumps(summary["summary"], indent=2))


if __name__ == "__main__":
    main()
