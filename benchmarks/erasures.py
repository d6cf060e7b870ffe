"""Erasures of the digits model as resumable jobs: each is made and scored in a worker, one result line as it ends."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.lines import finished, keep, kept_lines

RESULTS = Path(__file__).parent / "results"
SCORES = ("forget_accuracy", "retain_accuracy", "frechet")
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
    also: tuple[str, ...] = ()  # further scores

    @property
    def key(self) -> str:
        """Identifies the job in the results."""
        return json.dumps(asdict(self), sort_keys=True)

    def config(self) -> Any:
        """The complete configuration: a change of a default changes it, though not the key."""
        from erase.configure import configure

        method = "embedding_reset" if self.method == ORIGINAL else self.method
        options = {**dict(self.options), "seed": self.seed}
        return configure(self.model, [self.forget_class], method=method, data=self.source, options=options)

    @property
    def source(self) -> str | None:
        """Where the images come from; None is the model's own choice."""
        return None

    def erase(self, config: Any) -> Any:
        """Original and erased model."""
        from erase.erasure import run_erasure
        from erase.rundir import cache_dir

        return run_erasure(config, cache_dir=cache_dir())


def carry_out(job: Job) -> Row:
    """Make and score one model, on one thread."""
    import torch

    torch.set_num_threads(1)
    from erase.api.judging import Judges, protocol_scorer
    from eval.probe import Budget, load_probe
    from eval.protocol import named
    from pipelines.errors import DivergedError

    config = job.config()
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        erased = job.erase(config)
        failure = {}
    except DivergedError as error:
        erased, failure = None, {"diverged": str(error)}
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}
    if erased is None:
        return {**failure, **spent}
    original = erased.original
    model = original if job.method == ORIGINAL else erased.model
    protocol = replace(named("small"), num_forget_images=job.num_images, num_retain_images=job.num_images)
    scorer = protocol_scorer(original, protocol, Judges())
    found = scores(original, model, job.forget_class, protocol, scorer=scorer, names=(*SCORES, *job.also))
    if job.restore:
        budget = Budget(original=original, protocol=protocol, scorer=scorer)
        found["restored"] = load_probe("embedding_restore")(model, job.forget_class, budget).value
    return {**found, **spent}


def scores(
    original: Any, model: Any, forget_class: int, protocol: Any, *, scorer: Any, names: Sequence[str] = SCORES
) -> dict[str, float]:
    """Scores by the model's own classifier: forget accuracy, retain accuracy and Frechet distance unless named."""
    from erase.api.judging import real_reference
    from eval.evaluate import NO_FEATURES, score_model
    from eval.metric import Context

    reference = real_reference(original, (forget_class,), scorer=scorer, source=None)
    context = Context(
        forget_classes=(forget_class,),
        num_classes=original.num_classes,
        reference=reference,
        training_features=NO_FEATURES,
        seed=protocol.first_seed,
    )
    values = score_model(model, names, context, protocol=protocol, scorer=scorer)
    return {name: values[name]["value"] for name in names}


def done_rows(path: Path) -> dict[tuple[str, str], Row]:
    """Finished jobs by key and configuration hash."""
    lines = kept_lines(path)
    return {(json.dumps(line["job"], sort_keys=True), line["config"]): line["result"] for line in lines}


def run_jobs(jobs: Iterable[Job], path: Path, *, workers: int, title: str) -> Mapping[str, Row]:
    """Carry out the jobs that have no line in ``path`` under today's defaults; returns the results of all by key."""
    done, wanted = done_rows(path), {job: job.config().hash for job in jobs}
    todo = [job for job, config in wanted.items() if (job.key, config) not in done]
    path.parent.mkdir(exist_ok=True)
    for job, result in finished(todo, carry_out, workers=workers, title=title):
        done[job.key, wanted[job]] = result
        keep(path, {"job": asdict(job), "config": wanted[job], "result": result})
    return {job.key: done[job.key, config] for job, config in wanted.items()}
