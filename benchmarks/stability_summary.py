"""Tables and figure of ``benchmarks.stability`` from its finished runs."""

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.stability import IMAGES, SIDES, STEPS, TUNED, TUNING_CLASSES, VALUES, Job, cost
from erase.rundir import environment

NUMBERS = ("forget_accuracy", "retain_accuracy", "frechet", "seconds")
COLOURS = {"shared": "#b3541e", "dual": "#1f6f8b"}
Rows = list[dict[str, Any]]


def write_summary(
    done: Mapping[str, dict[str, Any]],
    tuning: list[Job],
    final: list[Job],
    best: Mapping[tuple[str, str], float],
    path: Path,
) -> None:
    """Write ``path``.json and ``path``.png."""
    originals = {row["forget_class"]: row for row in done.values() if row["method"] == "original"}
    retrained = {row["forget_class"]: row for row in done.values() if row["method"] == "retrain"}
    table = {}
    for (method, side), value in best.items():
        rows = [done[job.key] for job in final if (job.method, job.side) == (method, side)]
        table[f"{method} {side}"] = {
            "best": {TUNED[side]: value},
            "sensitivity": sensitivity(done, tuning, method, side, originals),
            "runs": len(rows),
            "diverged": sum("diverged" in row for row in rows),
            **{number: spread(row[number] for row in rows if number in row) for number in NUMBERS},
            "gap_to_retrain": gap_to_retrain(rows, retrained),
        }
    summary = {
        "protocol": {
            "steps": STEPS,
            "images": f"{IMAGES} of the erased class, {IMAGES} of the others, 20 DPM-Solver++ steps, no guidance",
            "tuned": {side: {TUNED[side]: VALUES[side]} for side in SIDES},
            "tuning_classes": TUNING_CLASSES,
            "cost": "forget accuracy + lost retain accuracy + a tenth of the relative Frechet growth",
        },
        "original": {number: spread(row[number] for row in originals.values()) for number in NUMBERS[:3]},
        "retrain": {number: spread(row[number] for row in retrained.values()) for number in NUMBERS[:3]},
        "table": table,
        "environment": environment(),
    }
    path.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(summary, path.with_suffix(".png"))
    print(json.dumps({name: row["forget_accuracy"] for name, row in table.items()}, indent=2))


def spread(values: Iterable[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation and count."""
    found = list(values)
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return {"mean": statistics.fmean(found) if found else None, "std": deviation, "n": len(found)}


def sensitivity(
    done: Mapping[str, dict[str, Any]],
    tuning: list[Job],
    method: str,
    side: str,
    originals: Mapping[int, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Mean cost and numbers at each tuned value."""
    points = []
    for value in sorted({job.value for job in tuning if (job.method, job.side) == (method, side)}):
        jobs = [job for job in tuning if (job.method, job.side, job.value) == (method, side, value)]
        rows = [done[job.key] for job in jobs]
        costs = [cost(row, originals[row["forget_class"]]) for row in rows]
        numbers = {number: spread(row[number] for row in rows if number in row) for number in NUMBERS[:3]}
        points.append({"value": value, "cost": spread(costs), **numbers})
    return points


def gap_to_retrain(rows: Rows, retrained: Mapping[int, dict[str, Any]]) -> dict[str, float | int | None]:
    """Mean absolute difference of the two accuracies from the retrained model's, where there is one."""
    gaps = [
        (
            abs(row["forget_accuracy"] - other["forget_accuracy"])
            + abs(row["retain_accuracy"] - other["retain_accuracy"])
        )
        / 2
        for row in rows
        if "diverged" not in row and (other := retrained.get(row["forget_class"]))
    ]
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
            costs = [point["cost"]["mean"] for point in points]
            axis.plot(range(len(costs)), costs, marker="o", color=COLOURS[side], label=side)
        axis.set_title(f"{method.replace('_', ' ')}: cost over tuned values", fontsize=9)
        axis.set_xticks(range(len(points)), [f"#{place + 1}" for place in range(len(points))])
        axis.set_ylim(bottom=0)
    for axis in axes[1][len(methods) :]:
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
