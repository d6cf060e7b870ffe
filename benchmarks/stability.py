"""Shared against dual optimizers: does decoupling make erasure more stable (the claim of DualOptim, arXiv 2504.15827)?

    python -m benchmarks.stability            every run, resumable; hours on two cores
    python -m benchmarks.stability --quick    two methods, two values, one class; minutes

Both sides are tuned equally: four forget weights for shared, four forget learning rates for dual, on three classes.
Each then runs at its best value over ten classes with one seed and three classes with two more. Every run is one line
of ``stability.jsonl`` as soon as it is done; the summary and the figure are made from these lines.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

METHODS = ("gradient_ascent", "sfron", "salun", "selective_amnesia", "retain_posterior")
SIDES = ("shared", "dual")
VALUES = {"shared": (0.03, 0.1, 0.3, 1.0), "dual": (2e-5, 6e-5, 2e-4, 6e-4)}
TUNED = {"shared": "forget_weight", "dual": "forget_learning_rate"}
TUNING_CLASSES = (1, 3, 8)
STEPS = 150
IMAGES = 250  # of the erased class, and as many of the others together
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Job:
    """One erasure to make and score; ``side`` is ``none`` for the original and the retrained model."""

    method: str
    side: str
    value: float
    forget_class: int
    seed: int

    @property
    def key(self) -> str:
        """Identifies the job in the results."""
        return json.dumps(asdict(self), sort_keys=True)


def settings(job: Job) -> dict[str, Any]:
    """Engine settings of a job: everything equal but the optimizers and the tuned value."""
    return {
        "steps": STEPS,
        "optimizers": job.side,
        TUNED[job.side]: job.value,
        "seed": job.seed,
        "fisher_samples": 500,
    }


def carry_out(job: Job) -> dict[str, Any]:
    """Make and score one model; runs in a worker process with one thread."""
    import torch

    torch.set_num_threads(1)
    from erase.erasure import configure, run_erasure
    from erase.rundir import cache_dir
    from pipelines.errors import DivergedError

    options = {"seed": job.seed} if job.side == "none" else settings(job)
    method = "embedding_reset" if job.method == "original" else job.method
    config = configure("digits", [job.forget_class], method=method, options=options)
    started = time.perf_counter()
    try:
        erased = run_erasure(config, cache_dir=cache_dir())
    except DivergedError as error:
        return {**asdict(job), "diverged": str(error), "seconds": time.perf_counter() - started}
    seconds = time.perf_counter() - started
    model = erased.original if job.method == "original" else erased.model
    return {**asdict(job), **scores(erased.original, model, job.forget_class), "seconds": seconds}


def scores(original: Any, model: Any, forget_class: int) -> dict[str, float]:
    """Forget accuracy, retain accuracy and Frechet distance of one model."""
    from erase.scoring import protocol_scorer, real_reference
    from eval.evaluate import NO_FEATURES, score_model
    from eval.metric import Context
    from eval.protocol import named

    protocol = replace(named("small"), name="stability", num_forget_images=IMAGES, num_retain_images=IMAGES)
    scorer = protocol_scorer(original, protocol)
    reference = real_reference(original, (forget_class,), scorer=scorer, source=None)
    context = Context(
        forget_classes=(forget_class,),
        num_classes=original.num_classes,
        reference=reference,
        training_features=NO_FEATURES,
        seed=protocol.first_seed,
    )
    names = ("forget_accuracy", "retain_accuracy", "frechet")
    values = score_model(model, names, context, protocol=protocol, scorer=scorer)
    return {name: values[name]["value"] for name in names}


def done_jobs(path: Path) -> dict[str, dict[str, Any]]:
    """Finished jobs by key; a line cut short by a kill is left out."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return {Job(**{name: row[name] for name in Job.__dataclass_fields__}).key: row for row in rows}


def run_jobs(jobs: list[Job], path: Path, *, workers: int, title: str) -> dict[str, dict[str, Any]]:
    """Carry out the jobs that are not in the results yet; returns all results."""
    done = done_jobs(path)
    todo = [job for job in dict.fromkeys(jobs) if job.key not in done]
    with ProcessPoolExecutor(workers) as pool, path.open("a") as stream:
        futures = {pool.submit(carry_out, job): job for job in todo}
        for future in tqdm(as_completed(futures), total=len(todo), desc=title, unit="run"):
            row = future.result()
            done[futures[future].key] = row
            stream.write(json.dumps(row) + "\n")
            stream.flush()
    return done


def cost(row: dict[str, Any], original: dict[str, Any]) -> float:
    """What tuning minimises: forget accuracy + lost retain accuracy + a tenth of the relative Frechet growth."""
    if "diverged" in row:
        return 3.0
    damage = max(0.0, original["retain_accuracy"] - row["retain_accuracy"])
    growth = max(0.0, row["frechet"] / original["frechet"] - 1)
    return row["forget_accuracy"] + damage + min(1.0, 0.1 * growth)


def tuning_jobs(methods: tuple[str, ...], classes: tuple[int, ...], num_values: int) -> list[Job]:
    """Every tuned value of both sides on the tuning classes, and the original model on them."""
    jobs = [Job("original", "none", 0.0, label, 0) for label in classes]
    for method in methods:
        for side in SIDES:
            values = VALUES[side][:num_values] if num_values == len(VALUES[side]) else VALUES[side][1 : 1 + num_values]
            jobs += [Job(method, side, value, label, 0) for value in values for label in classes]
    return jobs


def best_values(done: dict[str, dict[str, Any]], jobs: list[Job]) -> dict[tuple[str, str], float]:
    """The value of least mean cost for each method and side."""
    originals = {row["forget_class"]: row for row in done.values() if row["method"] == "original"}
    costs: dict[tuple[str, str], dict[float, list[float]]] = {}
    for job in jobs:
        if job.method != "original":
            entry = costs.setdefault((job.method, job.side), {}).setdefault(job.value, [])
            entry.append(cost(done[job.key], originals[job.forget_class]))
    return {pair: min(values, key=lambda value: sum(values[value])) for pair, values in costs.items()}


def final_jobs(best: dict[tuple[str, str], float], classes: tuple[int, ...]) -> list[Job]:
    """The best value over all classes with one seed, over the tuning classes with two more; originals, retrains."""
    jobs = [Job("original", "none", 0.0, label, 0) for label in classes]
    jobs += [Job("retrain", "none", 0.0, label, 0) for label in TUNING_CLASSES if label in classes]
    for (method, side), value in best.items():
        jobs += [Job(method, side, value, label, 0) for label in classes]
        jobs += [
            Job(method, side, value, label, seed) for label in TUNING_CLASSES if label in classes for seed in (1, 2)
        ]
    return jobs


def main() -> None:
    """Tune, run, summarise."""
    from benchmarks.stability_summary import write_summary

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two methods, two values, one class")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    arguments = parser.parse_args()

    name = "stability-quick" if arguments.quick else "stability"
    methods = ("gradient_ascent", "retain_posterior") if arguments.quick else METHODS
    tuning_classes = TUNING_CLASSES[1:2] if arguments.quick else TUNING_CLASSES
    classes = tuning_classes if arguments.quick else tuple(range(10))
    path = RESULTS / f"{name}.jsonl"
    RESULTS.mkdir(exist_ok=True)

    tuning = tuning_jobs(methods, tuning_classes, num_values=2 if arguments.quick else 4)
    done = run_jobs(tuning, path, workers=arguments.workers, title="tuning")
    best = best_values(done, tuning)
    final = [job for job in final_jobs(best, classes) if not (arguments.quick and job.method == "retrain")]
    done = run_jobs(final, path, workers=arguments.workers, title="final")
    write_summary(done, tuning, final, best, RESULTS / name)


if __name__ == "__main__":
    main()
