"""Erasures of the digits model as resumable jobs: each is made and scored in a worker, one result line as it ends."""

import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines.files import write_text

RESULTS = Path(__file__).parent / "results"
ORIGINAL = "original"  # in the place of a method: the model before any erasure
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One erasure to make and score."""

    method: str
    forget_class: int
    options: tuple[tuple[str, Any], ...] = ()  # engine and method settings by name
    seed: int = 0
    model: str = "digits"
    num_images: int = 250  # of the erased class, and as many of the others together
    restore: bool = False  # also score with the original label row put back

    @property
    def key(self) -> str:
        """Identifies the job in the results."""
        return json.dumps(asdict(self), sort_keys=True)

    def config(self) -> Any:
        """The complete configuration: a change of a default changes it, though not the key."""
        from erase.configure import configure

        method = "embedding_reset" if self.method == ORIGINAL else self.method
        return configure(
            self.model, [self.forget_class], method=method, options={**dict(self.options), "seed": self.seed}
        )


def carry_out(job: Job) -> Row:
    """Make and score one model, on one thread."""
    import torch

    torch.set_num_threads(1)
    from erase.erasure import run_erasure
    from erase.rundir import cache_dir
    from pipelines.errors import DivergedError

    config = job.config()
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        erased = run_erasure(config, cache_dir=cache_dir())
        failure = {}
    except DivergedError as error:
        erased, failure = None, {"diverged": str(error)}
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}
    if erased is None:
        return {**failure, **spent}
    model = erased.original if job.method == ORIGINAL else erased.model
    return {**scores(erased.original, model, job), **spent}


def scores(original: Any, model: Any, job: Job) -> dict[str, float]:
    """Forget accuracy, retain accuracy, Frechet distance and, if asked for, the forget accuracy of the restored row."""
    from erase.api.judging import Judges, protocol_scorer, real_reference
    from eval.evaluate import NO_FEATURES, score_model
    from eval.metric import Context
    from eval.probe import Budget, load_probe
    from eval.protocol import named

    protocol = replace(named("small"), num_forget_images=job.num_images, num_retain_images=job.num_images)
    scorer = protocol_scorer(original, protocol, Judges())
    reference = real_reference(original, (job.forget_class,), scorer=scorer, source=None)
    context = Context(
        forget_classes=(job.forget_class,),
        num_classes=original.num_classes,
        reference=reference,
        training_features=NO_FEATURES,
        seed=protocol.first_seed,
    )
    names = ("forget_accuracy", "retain_accuracy", "frechet")
    values = score_model(model, names, context, protocol=protocol, scorer=scorer)
    found = {name: values[name]["value"] for name in names}
    if job.restore:
        budget = Budget(original=original, protocol=protocol, scorer=scorer)
        found["restored"] = load_probe("embedding_restore")(model, job.forget_class, budget).value
    return found


def done_rows(path: Path) -> dict[tuple[str, str], Row]:
    """Finished jobs by key and configuration hash."""
    lines = kept_lines(path)
    return {(json.dumps(line["job"], sort_keys=True), line["config"]): line["result"] for line in lines}


def kept_lines(path: Path) -> list[Row]:
    """The lines of a result file, none without one; a last line that a kill cut short is left out."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def drop_cut_line(path: Path) -> None:
    """Remove a last line that a kill cut short, so that the next one starts on its own."""
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):
        write_text(text[: text.rfind("\n") + 1], path)


def run_jobs(jobs: Iterable[Job], path: Path, *, workers: int, title: str) -> Mapping[str, Row]:
    """Carry out the jobs that have no line in ``path`` under today's defaults; returns the results of all by key.

    A job that fails does not stop the others; at the end the failures are raised together.
    """
    done, wanted = done_rows(path), {job: job.config().hash for job in jobs}
    todo = [job for job, config in wanted.items() if (job.key, config) not in done]
    path.parent.mkdir(exist_ok=True)
    drop_cut_line(path)
    failures = []
    with ProcessPoolExecutor(workers) as pool, path.open("a") as stream:
        futures = {pool.submit(carry_out, job): job for job in todo}
        for future in tqdm(as_completed(futures), total=len(todo), desc=title, unit="run"):
            job = futures[future]
            if (error := future.exception()) is not None:
                failures.append(RuntimeError(f"{job.key}: {error!r}"))
                continue
            done[job.key, wanted[job]] = future.result()
            line = {"job": asdict(job), "config": wanted[job], "result": future.result()}
            stream.write(json.dumps(line) + "\n")
            stream.flush()
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(todo)} jobs failed", failures)
    return {job.key: done[job.key, config] for job, config in wanted.items()}
