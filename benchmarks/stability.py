"""Shared against dual optimizers: does decoupling make erasure more stable (the claim of DualOptim, arXiv 2504.15827)?

    python -m benchmarks.stability            every run, resumable; an hour and a half on two cores
    python -m benchmarks.stability --quick    two methods, two values, one class; minutes

Both sides are tuned equally: four forget weights for shared, four forget learning rates for dual, on three classes.
Each then runs at its best value over ten classes with one seed and three classes with two more. Every run is one line
of ``stability.jsonl`` as soon as it is done; the summary and the figure are made from these lines.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.erasures import ORIGINAL, RESULTS, Job, Row, run_jobs

METHODS = ("gradient_ascent", "sfron", "salun", "selective_amnesia", "retain_posterior")
SIDES = ("shared", "dual")
VALUES = {"shared": (0.03, 0.1, 0.3, 1.0), "dual": (2e-5, 6e-5, 2e-4, 6e-4)}
TUNED = {"shared": "forget_weight", "dual": "forget_learning_rate"}
TUNING_CLASSES = (1, 3, 8)
SETTINGS = {"steps": 100, "forget_batch_size": 32, "retain_batch_size": 64, "retain_steps": 1}  # of every run
# What the comparison fixes beside them: it is one of plain methods, without a simulated attack.
FIXED = {
    "sfron": {"fisher_samples": 500},
    "selective_amnesia": {"fisher_samples": 500},
    "retain_posterior": {"robust": False, "forget_learning_rate": 4e-4},
}


@dataclass(frozen=True)
class Scale:
    """How much of the comparison is run."""

    name: str
    methods: Sequence[str]
    values: Mapping[str, Sequence[float]]
    tuning_classes: Sequence[int]
    classes: Sequence[int]
    more_seeds: Sequence[int]
    retrain: bool


FULL = Scale("stability", METHODS, VALUES, TUNING_CLASSES, tuple(range(10)), (1, 2), True)
QUICK = Scale(
    "stability-quick",
    ("gradient_ascent", "retain_posterior"),
    {side: values[1:3] for side, values in VALUES.items()},
    (3,),
    (3,),
    (),
    False,
)


def erasure(method: str, side: str, value: float, forget_class: int, seed: int = 0) -> Job:
    """One run: everything equal but the optimizers and the tuned value."""
    options = {**SETTINGS, **FIXED.get(method, {}), "optimizers": side, TUNED[side]: value}
    return Job(method=method, forget_class=forget_class, options=tuple(sorted(options.items())), seed=seed)


def baseline(method: str, forget_class: int) -> Job:
    """The original or the retrained model, which are not tuned."""
    return Job(method=method, forget_class=forget_class)


def cost(row: Row, original: Row) -> float:
    """What tuning minimises: forget accuracy + lost retain accuracy + a tenth of the relative Frechet growth."""
    if "diverged" in row:
        return 3.0
    damage = max(0.0, original["retain_accuracy"] - row["retain_accuracy"])
    growth = max(0.0, row["frechet"] / original["frechet"] - 1)
    return row["forget_accuracy"] + damage + min(1.0, 0.1 * growth)


def tuning_jobs(scale: Scale) -> list[Job]:
    """Every value of both sides on the tuning classes, and the original model on them."""
    return [baseline(ORIGINAL, label) for label in scale.tuning_classes] + [
        erasure(method, side, value, label)
        for method in scale.methods
        for side in SIDES
        for value in scale.values[side]
        for label in scale.tuning_classes
    ]


def mean_cost(done: Mapping[str, Row], scale: Scale, method: str, side: str, value: float) -> float:
    """Mean cost of one tuned value over the tuning classes."""
    costs = [
        cost(done[erasure(method, side, value, label).key], done[baseline(ORIGINAL, label).key])
        for label in scale.tuning_classes
    ]
    return sum(costs) / len(costs)


def final_jobs(scale: Scale, best: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], list[Job]]:
    """For each method and side its best value over all classes with one seed and the tuning classes with more."""
    return {
        (method, side): [erasure(method, side, value, label) for label in scale.classes]
        + [erasure(method, side, value, label, seed) for label in scale.tuning_classes for seed in scale.more_seeds]
        for (method, side), value in best.items()
    }


def main() -> None:
    """Tune, run, summarise."""
    from benchmarks.stability_summary import write_summary

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two methods, two values, one class")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    arguments = parser.parse_args()

    scale = QUICK if arguments.quick else FULL
    path = RESULTS / f"{scale.name}.jsonl"
    done = dict(run_jobs(tuning_jobs(scale), path, workers=arguments.workers, title="tuning"))
    best = {
        (method, side): min(
            scale.values[side],
            key=lambda value, method=method, side=side: mean_cost(done, scale, method, side, value),
        )
        for method in scale.methods
        for side in SIDES
    }
    final = final_jobs(scale, best)
    retrained = [baseline("retrain", label) for label in scale.tuning_classes] if scale.retrain else []
    originals = [baseline(ORIGINAL, label) for label in scale.classes]
    everything = [*originals, *retrained, *(job for jobs in final.values() for job in jobs)]
    done |= run_jobs(everything, path, workers=arguments.workers, title="final")
    write_summary(done, scale, best, final, RESULTS / scale.name)


if __name__ == "__main__":
    main()
