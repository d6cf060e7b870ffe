"""What else the default could be: settings that were tried for it, on the classes that ask the most of it.

    python -m benchmarks.default_attempts

The erasure of *nine* is one of those that cost the other classes most. Beside their retrained models, *one* is
relearned soonest, and rows for *one* and *eight* are learned best; at the full budget *three* is relearned sooner
than the default is held to. Resumable; ten to fifteen minutes of a core for each attempt and class, ten more at the
full budget, and half an hour for a retrained model, once.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.attacks import SIDES, Subject, run_all
from benchmarks.default_summary import Figures, figures_as_json, save
from benchmarks.erasures import ORIGINAL, RESULTS, Job, Row, run_jobs
from benchmarks.lines import Line
from benchmarks.probe_summary import in_words
from benchmarks.relearning_pace import AMONG_OTHERS, Curve, best_by_step, ratio_in_words, strongest_curve
from erase.configure import DEFAULT_METHOD
from erase.rundir import cache_dir, environment
from pipelines.files import write_json
from pipelines.text import markdown_table

COSTLY = 9  # whose erasure costs the others much
HARD = (1, 8)  # that come back easily
AT_FULL = (1, 3, 8)  # classes of the full budget; *3* is relearned sooner than the default is held to
EARLIER: Mapping[str, Any] = {"robust_label_life": 200, "retain_steps": 1, "retain_batch_size": 128}
ATTEMPTS: Mapping[str, Mapping[str, Any]] = {
    "shipped": {},
    "life 400": {"robust_label_life": 400},
    "life 400, relearning simulated as well": {"robust_label_life": 400, "robust_target": "both"},
    "life 200": {"robust_label_life": 200},
    "life 200, one retain step of 128": EARLIER,
    "the same, weights averaged, half-life 15 steps": {**EARLIER, "average_half_life": 15.0},
    "life 200, two retain steps of 128, 200 outer steps": {**EARLIER, "retain_steps": 2, "steps": 200},
    "life 200, two retain steps of 128": {**EARLIER, "retain_steps": 2},
}
ALSO_FULL = {  # classes that an attempt is attacked on at the full budget as well
    "shipped": AT_FULL, "life 400": AT_FULL, "life 400, relearning simulated as well": (1,),
    "life 200, one retain step of 128": HARD,
}  # fmt: skip
NOT_ATTACKED: Mapping[str, Any] = {}
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


def variant(attempt: str, label: int, budget: str) -> Variant:
    """An attempt on a class, to be attacked."""
    settings = settings_of(attempt)
    return Variant(method=DEFAULT_METHOD, optimizers=SIDES[0], budget=budget, forget_class=label, settings=settings)


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


def attacked_all(work: Path, workers: int) -> dict[tuple[str, int, str], Line]:
    """Attacks by attempt, class and budget."""
    places = [(attempt, label, "quick") for attempt in ATTEMPTS for label in HARD]
    places += [(attempt, label, "full") for attempt, labels in ALSO_FULL.items() for label in labels]
    wanted = {place: variant(*place) for place in places}
    lines = run_all(wanted.values(), RESULTS / f"{NAME}_attacks.jsonl", work, workers=workers)
    return {place: lines[each] for place, each in wanted.items()}


def summary(scores: Mapping[str, Row], attacks: Mapping[tuple[str, int, str], Line]) -> Summary:
    """Settings, scores on the costly class and figures of the hard ones, by attempt."""
    attempts = {
        attempt: {
            "settings": dict(settings),
            "scores": scores[attempt],
            "attacked": {str(label): figures_as_json(attacks[attempt, label, "quick"]) for label in HARD},
            "full": {str(label): full_figures(attacks[attempt, label, "full"]) for label in ALSO_FULL.get(attempt, ())},
        }
        for attempt, settings in ATTEMPTS.items()
    }
    return {"attempts": attempts, "original": scores[ORIGINAL], "environment": environment()}


def full_figures(line: Line) -> Figures | None:
    """What the full budget finds, and what a learned row draws of the class; None where the erasure diverged."""
    found = figures_as_json(line)
    return found and {**found, "row_learned": line["probes"]["embedding_inversion"]["erased"]["value"]}


def tables(found: Summary) -> str:
    """What each attempt costs the neighbours of the costly class and leaves of the hard ones; some at full budget."""
    rows = [[attempt, *cells(entry, found["original"])] for attempt, entry in found["attempts"].items()]
    costly, those, full = f"*{COSTLY}*", starred(HARD), starred(AT_FULL)
    header = ["", f"Frechet, {costly}", "points lost", f"by its label, {those}", f"rise, {those}",
              f"steps to half, {those}", f"gap, {those}"]  # fmt: skip
    full_rows = [[attempt, *full_cells(entry["full"])] for attempt, entry in found["attempts"].items() if entry["full"]]
    full_header = ["full budget", f"by its label, {full}", f"rise, {full}", f"row learned, {full}",
                   f"steps to half, {full}", f"among others, {full}"]  # fmt: skip
    return "\n".join(
        markdown_table(top, table, text_columns=1) for top, table in ((header, rows), (full_header, full_rows))
    )


def starred(labels: Sequence[int]) -> str:
    """``*1* / *8*``."""
    return " / ".join(f"*{label}*" for label in labels)


def cells(entry: Mapping[str, Any], before: Row) -> list[str]:
    """One attempt's row of the table; ``diverged`` where there is nothing to measure."""
    after, hard = entry["scores"], list(entry["attacked"].values())
    lost = "diverged" in after
    return [
        "diverged" if lost else f"{after['frechet'] / before['frechet']:.2f}",
        "-" if lost else f"{100 * (before['retain_accuracy'] - after['retain_accuracy']):.1f}",
        by_class(hard, lambda each: f"{100 * each['forget_accuracy']:.1f}", lost="diverged"),
        by_class(hard, lambda each: f"{100 * each['rise']:.0f}"),
        by_class(hard, lambda each: ratio_in_words(each["steps_ratio"])),
        by_class(hard, lambda each: in_words(each["gap"])),
    ]


def full_cells(full: Mapping[str, Figures | None]) -> list[str]:
    """One attempt's row at the full budget; a hyphen for a class that it was not attacked on."""
    found = [full.get(str(label), NOT_ATTACKED) for label in AT_FULL]
    return [
        by_class(found, lambda each: f"{100 * each['forget_accuracy']:.1f}", lost="diverged"),
        by_class(found, lambda each: f"{100 * each['rise']:.0f}"),
        by_class(found, lambda each: f"{100 * each['row_learned']:.0f}"),
        by_class(found, lambda each: ratio_in_words(each["steps_ratio"])),
        by_class(found, lambda each: ratio_in_words(each["ratio_by_attack"][AMONG_OTHERS])),
    ]


def by_class(found: Iterable[Figures | None], words: Callable[[Figures], str], *, lost: str = "-") -> str:
    """``0.6 / 1.2``: one figure of each class."""
    return " / ".join("-" if each is NOT_ATTACKED else lost if each is None else words(each) for each in found)


def draw(attacks: Mapping[tuple[str, int, str], Line], path: Path) -> None:
    """Relearning at the quick budget and the learned row at the full one, step by step: a panel for each hard class."""
    figure, axes = plt.subplots(2, len(HARD), figsize=(4 * len(HARD), 6), sharey=True, layout="constrained")
    for (upper, lower), label in zip(axes.T, HARD, strict=True):
        draw_curves(upper, [(attempt, attacks[attempt, label, "quick"]) for attempt in ATTEMPTS], strongest_curve)
        rows = [(attempt, attacks[attempt, label, "full"]) for attempt, labels in ALSO_FULL.items() if label in labels]
        draw_curves(lower, rows, row_curve)
        upper.set(title=f"class {label}", xlabel="steps of fine-tuning")
        lower.set(xlabel="steps of learning a row")
    for panel in axes[:, 0]:
        panel.set_ylabel("share of images that show it")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def draw_curves(panel: Axes, lines: Sequence[tuple[str, Line]], curve_of: Callable[[Line, str], Curve]) -> None:
    """A curve of each attempt that did not diverge, in the same colour in every panel, and of the retrained model."""
    for attempt, line in lines:
        if "diverged" not in line:
            colour = f"C{list(ATTEMPTS).index(attempt)}"
            panel.plot(*zip(*curve_of(line, "erased"), strict=True), color=colour, marker="o", ms=3, label=attempt)
    floor = curve_of(lines[0][1], "retrained")
    panel.plot(*zip(*floor, strict=True), color="0.3", linestyle=":", marker="o", ms=3, label="never saw it")
    panel.set(ylim=(0, 1.03), xticks=[step for step, _ in floor])


def row_curve(line: Line, who: str) -> Curve:
    """What the best of the learned rows draws by each counted step."""
    return best_by_step(line["probes"]["embedding_inversion"][who]["detail"]["curves"])


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
    print(tables(found))


if __name__ == "__main__":
    main()
