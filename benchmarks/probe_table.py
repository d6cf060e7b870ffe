"""What comes back: every method under every probe on digits, beside models that never saw the class.

    python -m benchmarks.probe_table             every method, shared and dual, three classes, quick budget
    python -m benchmarks.probe_table --classes 3   one of the three classes, a table of its own
    python -m benchmarks.probe_table --default   the default on all ten classes, full budget

Resumable: each model is an ordinary run below ``--work``, each attack is kept by weights and budget, and each model's
line is in the results as soon as it is there. A retrained model takes half an hour of a core, once; another erasure
with its probes at the quick budget three to seven minutes.
"""

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.erasures import RESULTS, drop_cut_line, kept_lines
from erase.config import config_hash
from erase.configure import DEFAULT_METHOD, configure
from erase.method import method_class, method_names
from erase.rundir import cache_dir
from eval.probe import AMOUNTS

MODEL = "digits"
CLASSES = (3, 8, 1)
FLOORS = (3, 8, 1, 5, 9)  # the classes with a retrained model
SIDES = ("dual", "shared")
SCORES = ("forget_accuracy", "retain_accuracy", "frechet")
RETRAIN = "retrain"
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model to attack."""

    method: str
    forget_class: int
    optimizers: str  # "" for a method that takes no steps of the engine
    budget: str

    @property
    def name(self) -> str:
        """The method and its optimizers, as a row of the table is called."""
        return " ".join(filter(None, (self.method, self.optimizers)))

    @property
    def is_default(self) -> bool:
        """Whether ``erase run`` does this when it is told nothing."""
        return (self.method, self.optimizers) == (DEFAULT_METHOD, SIDES[0])

    @property
    def options(self) -> dict[str, Any]:
        """The settings that are not the method's defaults."""
        return {"optimizers": self.optimizers} if self.optimizers else {}

    @property
    def config_hash(self) -> str:
        """Everything that the defaults say today."""
        return configure(MODEL, [self.forget_class], method=self.method, options=self.options).hash

    @property
    def key(self) -> str:
        """Identifies the subject under today's defaults and today's budget."""
        return json.dumps([asdict(self), self.config_hash, config_hash(asdict(AMOUNTS[self.budget]))])


def subjects(*, default: bool) -> list[Subject]:
    """What is attacked: the default method and its optimizers on every class first, then class by class."""
    if default:
        classes = sorted(range(10), key=lambda label: (label not in FLOORS, label))
        return [
            Subject(method=DEFAULT_METHOD, forget_class=label, optimizers="dual", budget="full") for label in classes
        ]
    methods = (DEFAULT_METHOD, *sorted({*method_names()} - {RETRAIN, DEFAULT_METHOD}))
    found = [
        Subject(method=method, forget_class=label, optimizers=side, budget="quick")
        for label in CLASSES
        for method in methods
        for side in (SIDES if method_class(method).trains else ("",))
    ]
    return sorted(found, key=lambda subject: not subject.is_default)


def floor_path(work: Path, forget_class: int) -> Path:
    """Where the model that never saw the class is kept."""
    return work / "retrained" / str(forget_class)


def make_floor(work: Path, forget_class: int) -> None:
    """Train the model that never saw the class, unless it is there; a training that was killed goes on."""
    import torch

    torch.set_num_threads(1)
    from pipelines.model import load
    from pipelines.pretrain.recipe import Recipe
    from pipelines.pretrain.train import pretrain

    parts, folder = load(MODEL), floor_path(work, forget_class)
    pretrain(MODEL, folder, recipe=Recipe(), without=[parts.classes[forget_class].name], parts_of=parts, progress=False)


def attacked(subject: Subject, work: Path) -> Line:
    """Make, score and attack one model on one thread."""
    import torch

    torch.set_num_threads(1)
    import erase
    from eval.protocol import named
    from pipelines.errors import DivergedError

    few = {"num_forget_images": 500, "num_retain_images": 500}
    protocol = replace(named("small"), name="probe table", precision="bf16", **few)
    floor = floor_path(work, subject.forget_class)
    folder = work / "runs" / f"{subject.forget_class}-{subject.name.replace(' ', '-')}-{subject.config_hash[:6]}"
    try:
        result = erase.run(
            MODEL, subject.forget_class, method=subject.method, options=subject.options, output_dir=folder,
            protocol=protocol, memory="fixed", progress=False,
        )  # fmt: skip
    except DivergedError as error:
        return {"diverged": str(error)}
    retrained = str(floor) if subject.forget_class in FLOORS else None
    record = erase.probe(folder, budget=subject.budget, retrained=retrained, control=False, progress=False)
    scored = [who for who in ("original", "erased", "retrained") if who in record]
    return {
        "scores": {who: {name: record[who][name]["value"] for name in SCORES} for who in scored},
        "probes": record["probes"],
        "recovery": record["recovery"],
        "seconds": result.seconds,
    }


def run_all(wanted: Iterable[Subject], path: Path, work: Path, *, workers: int) -> dict[Subject, Line]:
    """Attack what has no line yet under today's defaults; returns the lines of all.

    A subject that fails does not stop the others; at the end the failures are raised together.
    """
    done = {line["key"]: line["result"] for line in kept_lines(path)}
    keys = {subject: subject.key for subject in wanted}
    todo = [subject for subject, key in keys.items() if key not in done]
    drop_cut_line(path)
    failures: list[BaseException] = []
    with ProcessPoolExecutor(workers) as pool, path.open("a") as stream:
        floors = sorted({subject.forget_class for subject in todo} & set(FLOORS))
        for _ in tqdm(pool.map(make_floor, [work] * len(floors), floors), total=len(floors), desc="retrained models"):
            pass
        futures = {pool.submit(attacked, subject, work): subject for subject in todo}
        for future in tqdm(as_completed(futures), total=len(todo), desc="models", unit="model"):
            key = keys[futures[future]]
            if (error := future.exception()) is not None:
                failures.append(error)
                continue
            done[key] = future.result()
            stream.write(json.dumps({"key": key, "subject": asdict(futures[future]), "result": done[key]}) + "\n")
            stream.flush()
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} of {len(todo)} subjects failed", failures)
    return {subject: done[key] for subject, key in keys.items()}


def main() -> None:
    """Run what is missing and print the table."""
    from benchmarks import default_summary, probe_summary

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--default", action="store_true", help="the default on all ten classes, full budget")
    parser.add_argument("--work", type=Path, default=cache_dir() / "probe_table", help="where the models are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    parser.add_argument("--classes", nargs="+", type=int, default=None, help="only these of the classes [default: all]")
    arguments = parser.parse_args()
    name = "default_probes" if arguments.default else "probe_table"
    wanted = subjects(default=arguments.default)
    if arguments.classes is not None:
        wanted = [subject for subject in wanted if subject.forget_class in arguments.classes]
    if not wanted:
        parser.error(f"--classes {' '.join(map(str, arguments.classes))}: none of them is in this table")
    lines = run_all(wanted, RESULTS / f"{name}.jsonl", arguments.work, workers=arguments.workers)
    name = "-".join([name, *map(str, arguments.classes or ())])
    if arguments.default:
        by_class = {subject.forget_class: line for subject, line in lines.items()}
        print(default_summary.write_summary(name, dict(sorted(by_class.items()))))
    else:
        print(probe_summary.write_summary(name, lines))


if __name__ == "__main__":
    main()
