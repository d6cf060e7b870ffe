"""Tables and figure of ``benchmarks.stability`` from its finished runs."""

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.erasures import ORIGINAL, Job, Row
from benchmarks.stability import SETTINGS, SIDES, TUNED, Scale, baseline, erasure, mean_cost
from erase.rundir import environment

NUMBERS = ("forget_accuracy", "retain_accuracy", "frechet", "cpu_seconds")
COLOURS = {"shared": "#b3541e", "dual": "#1f6f8b"}


def write_summary(
    done: Mapping[str, Row],
    scale: Scale,
    best: Mapping[tuple[str, str], float],
    final: Mapping[tuple[str, str], list[Job]],
    path: Path,
) -> None:
    """Write ``path``.json and ``path``.png."""
    originals = [done[baseline(ORIGINAL, label).key] for label in scale.classes]
    retrained = {label: done[baseline("retrain", label).key] for label in scale.tuning_classes if scale.retrain}
    table = {}
    for (method, side), value in best.items():
        jobs = final[method, side]
        rows = [done[job.key] for job in jobs]
        table[f"{method} {side}"] = {
            "best": {TUNED[side]: value},
            "sensitivity": sensitivity(done, scale, method, side),
            "runs": len(rows),
            "diverged": sum("diverged" in row for row in rows),
            **{number: spread(row[number] for row in rows if number in row) for number in NUMBERS},
            "gap_to_retrain": gap_to_retrain(done, jobs, retrained),
        }
    summary = {
        "protocol": {
            "settings": SETTINGS,
            "images": "250 of the erased class, 250 of the others, 20 DPM-Solver++ steps, no guidance",
            "tuned": {side: {TUNED[side]: scale.values[side]} for side in SIDES},
            "tuning_classes": scale.tuning_classes,
            "cost": "forget accuracy + lost retain accuracy + a tenth of the relative Frechet growth",
        },
        "original": {number: spread(row[number] for row in originals) for number in NUMBERS[:3]},
        "retrain": {number: spread(row[number] for row in retrained.values()) for number in NUMBERS[:3]},
        "table": table,
        "environment": environment(),
    }
    path.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(summary, path.with_suffix(".png"))
    print(text_table(summary))


def text_table(summary: Mapping[str, Any]) -> str:
    """Mean and standard deviation of every number, as Markdown."""
    columns = ("method", "optimizers", "runs", "diverged", *NUMBERS, "gap to retrain")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in summary["table"].items():
        cells = [cell(row[number]) for number in (*NUMBERS, "gap_to_retrain")]
        lines.append(f"| {' | '.join([*name.split(), str(row['runs']), str(row['diverged']), *cells])} |")
    return "\n".join(lines)


def cell(found: Mapping[str, Any]) -> str:
    """Mean and standard deviation, or a dash where every run diverged."""
    return "-" if found["mean"] is None else f"{found['mean']:.3f} ± {found['std'] or 0:.3f}"


def spread(values: Iterable[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation and count."""
    found = list(values)
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return {"mean": statistics.fmean(found) if found else None, "std": deviation, "n": len(found)}


def sensitivity(done: Mapping[str, Row], scale: Scale, method: str, side: str) -> list[dict[str, Any]]:
    """Mean cost and numbers at each tuned value."""
    points = []
    for value in scale.values[side]:
        rows = [done[erasure(method, side, value, label).key] for label in scale.tuning_classes]
        numbers = {number: spread(row[number] for row in rows if number in row) for number in NUMBERS[:3]}
        points.append({"value": value, "cost": mean_cost(done, scale, method, side, value), **numbers})
    return points


def gap_to_retrain(
    done: Mapping[str, Row], jobs: list[Job], retrained: Mapping[int, Row]
) -> dict[str, float | int | None]:
    """Mean absolute difference of the two accuracies from the retrained model's, where there is one."""
    gaps = []
    for job in jobs:
        row, other = done[job.key], retrained.get(job.forget_class)
        if other and "diverged" not in row:
            gaps.append(statistics.fmean(abs(row[number] - other[number]) for number in NUMBERS[:2]))
    return spread(gaps)


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """One panel for each number over the methods, and the sensitivity curves below."""
    table = summary["table"]
    methods = list(dict.fromkeys(name.split()[0] for name in table))
    figure, axes = plt.subplots(
        2, max(3, len(methods)), figsize=(3.2 * max(3, len(methods)), 6.4), layout="constrained"
    )
    for axis, number in zip(axes[0], NUMBERS[:3], strict=False):
        for shift, side in ((-0.2, "shared"), (0.2, "dual")):
            entries = [table[f"{method} {side}"][number] for method in methods]
            places = [place + shift for place in range(len(methods))]
            means, deviations = [entry["mean"] or 0 for entry in entries], [entry["std"] or 0 for entry in entries]
            axis.bar(places, means, 0.38, yerr=deviations, color=COLOURS[side], label=side, capsize=2)
        axis.set_title(number.replace("_", " "))
        axis.set_xticks(range(len(methods)), [method.replace("_", "\n") for method in methods], fontsize=8)
        if original := summary["original"][number]["mean"]:
            axis.axhline(original, color="0.4", linewidth=1, linestyle=":")
    axes[0][0].legend(frameon=False)
    for axis in axes[0][3:]:
        axis.axis("off")
    for axis, method in zip(axes[1], methods, strict=False):
        for side in SIDES:
            points = table[f"{method} {side}"]["sensitivity"]
            costs = [point["cost"] for point in points]
            axis.plot(range(len(costs)), costs, marker="o", color=COLOURS[side], label=side)
        axis.set_title(f"{method.replace('_', ' ')}: cost over tuned values", fontsize=9)
        axis.set_xticks(range(len(points)), [f"#{place + 1}" for place in range(len(points))])
        axis.set_ylim(bottom=0)
    for axis in axes[1][len(methods) :]:
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
