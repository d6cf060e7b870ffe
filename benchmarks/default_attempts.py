"""What else the default could be: settings that were tried for it, on the classes that ask the most of it.

    python -m benchmarks.default_attempts

*Nine* is one of the classes whose erasure by the default costs the others most (Frechet distance 1.17 times the
original's); beside their retrained models, *one* is relearned soonest, and rows for *one* and *eight* are learned best.
Resumable; ten to fifteen minutes of a core for each attempt and class, half an hour for a retrained model, once.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from benchmarks.default_summary import figures, save, strongest_curve
from benchmarks.erasures import ORIGINAL, RESULTS, Job, Row, run_jobs
from benchmarks.probe_table import SIDES, Line, Subject, run_all
from erase.configure import DEFAULT_METHOD
from erase.rundir import cache_dir, environment
from pipelines.files import write_json
from pipelines.text import markdown_table

COSTLY = 9  # whose erasure costs the others much
HARD = (1, 8)  # that come back easily
ATTEMPTS: Mapping[str, Mapping[str, Any]] = {
    "shipped": {},
    "weights averaged, half-life 15 steps": {"average_half_life": 15.0},
    "two retain steps of 64 images": {"retain_steps": 2, "retain_batch_size": 64},
    "two retain steps, 200 outer steps": {"retain_steps": 2, "steps": 200},
    "two retain steps": {"retain_steps": 2},
}
NAME = "default_attempts"
Summary = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Variant(Subject):
    """The default with some settings changed."""

    settings: tuple[tuple[str, Any], ...]

    @property
    def options(self) -> dict[str, Any]:
        """Those settings beside the optimizers."""
        return {**super().options, **dict(self.settings)}


def settings_of(attempt: str) -> tuple[tuple[str, Any], ...]:
    """The settings of an attempt, in an order of their own."""
    return tuple(sorted(ATTEMPTS[attempt].items()))


def variants() -> dict[tuple[str, int], Variant]:
    """The attempts on the hard classes, to be attacked."""
    shared = {"method": DEFAULT_METHOD, "optimizers": SIDES[0], "budget": "quick"}
    return {
        (attempt, label): Variant(**shared, forget_class=label, settings=settings_of(attempt))
        for attempt in ATTEMPTS
        for label in HARD
    }


def job(attempt: str) -> Job:
    """The attempt on the costly class, to be scored over 2,000 images."""
    options = settings_of(attempt)
    return Job(method=DEFAULT_METHOD, forget_class=COSTLY, options=options, num_images=1000, restore=True)


def scored(workers: int) -> dict[str, Row]:
    """Scores on the costly class by attempt, and those of the original under its own name."""
    jobs = {ORIGINAL: Job(method=ORIGINAL, forget_class=COSTLY, num_images=1000)}
    jobs |= {attempt: job(attempt) for attempt in ATTEMPTS}
    done = run_jobs(list(jobs.values()), RESULTS / f"{NAME}_scores.jsonl", workers=workers, title="scored")
    return {name: done[each.key] for name, each in jobs.items()}


def attacked_all(work: Path, workers: int) -> dict[tuple[str, int], Line]:
    """Attacks on the hard classes by attempt and class."""
    wanted = variants()
    lines = run_all(wanted.values(), RESULTS / f"{NAME}_attacks.jsonl", work, workers=workers)
    return {place: lines[each] for place, each in wanted.items()}


def summary(scores: Mapping[str, Row], attacks: Mapping[tuple[str, int], Line]) -> Summary:
    """Settings, scores on the costly class and figures of the hard ones, by attempt."""
    attempts = {
        attempt: {
            "settings": dict(settings),
            "scores": scores[attempt],
            "attacked": {str(label): figures(attacks[attempt, label]) for label in HARD},
        }
        for attempt, settings in ATTEMPTS.items()
    }
    return {"attempts": attempts, "original": scores[ORIGINAL], "environment": environment()}


def table(found: Summary) -> str:
    """What each attempt costs the neighbours of the costly class, and leaves of the hard ones."""
    before, rows = found["original"], []
    for attempt, entry in found["attempts"].items():
        after, hard = entry["scores"], entry["attacked"].values()
        cells = [f"{after['frechet'] / before['frechet']:.2f}"]
        cells.append(f"{100 * (before['retain_accuracy'] - after['retain_accuracy']):.1f}")
        cells.append(" / ".join(f"{100 * each['rise']:.0f}" for each in hard))
        cells.append(" / ".join(f"{each['steps_ratio']:.2f}" for each in hard))
        cells.append(" / ".join(f"{each['gap']:.3f}" for each in hard))
        rows.append([attempt, *cells])
    costly, those = f"*{COSTLY}*", " / ".join(f"*{label}*" for label in HARD)
    header = ["", f"Frechet, {costly}", "points lost", f"rise, {those}", f"steps to half, {those}", f"gap, {those}"]
    return markdown_table(header, rows, text_columns=1)


def draw(attacks: Mapping[tuple[str, int], Line], path: Path) -> None:
    """What the strongest attacker has relearned by each step after each attempt, a panel for each hard class."""
    sizes = {"figsize": (4 * len(HARD), 3.2), "sharey": True, "layout": "constrained"}
    figure, panels = plt.subplots(1, len(HARD), **sizes)
    for panel, label in zip(panels, HARD, strict=True):
        curves = {attempt: strongest_curve(attacks[attempt, label], "erased") for attempt in ATTEMPTS}
        for attempt, curve in curves.items():
            panel.plot(*zip(*curve, strict=True), marker="o", ms=3, label=attempt)
        floor = strongest_curve(attacks[next(iter(ATTEMPTS)), label], "retrained")
        panel.plot(*zip(*floor, strict=True), color="0.3", linestyle=":", marker="o", ms=3, label="never saw it")
        panel.set(title=f"class {label}", ylim=(0, 1.03), xticks=[step for step, _ in floor], xlabel="steps")
    panels[0].set_ylabel("share of images that show it")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "probe_table", help="where the models are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    arguments = parser.parse_args()
    attacks = attacked_all(arguments.work, arguments.workers)
    found = summary(scored(arguments.workers), attacks)
    write_json(found, RESULTS / f"{NAME}.json")
    draw(attacks, RESULTS / f"{NAME}.png")
    print(table(found))


if __name__ == "__main__":
    main()
