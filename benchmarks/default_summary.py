"""What ``benchmarks.probe_table --default`` found: the shipped default on every class, and what it is held to.

Where a class has a retrained model, an attack may bring back a little more of it from the erased model than from that
one, and relearning may be a little faster: the limits are those below, and ``missed`` names what lies beyond them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.erasures import RESULTS
from benchmarks.probe_summary import ATTACKS, Line, gap, in_words, percent, values_of
from benchmarks.relearning_pace import (
    NEVER,
    among_others,
    pace_rows,
    ratio_by_attack,
    ratio_in_words,
    steps_ratio,
    strongest_curve,
)
from erase.rundir import environment
from pipelines.files import replace_file, write_json
from pipelines.text import markdown_table

matplotlib.use("Agg")
Figures = Mapping[str, Any]  # of one class
FINE_TUNED = ("relearning", "relearning_retained")  # held to their speed
AT_MOST = {"forget_accuracy": 0.01, "retain_drop": 0.02, "frechet_ratio": 1.15}
RISE, FURTHEST_RISE = 0.05, 0.12  # above the retrained model: every class but one, and that one
STEPS_RATIO = 0.8  # at least: steps to half of the class, in those of the retrained model
COLOURS = {"erased": "#b5361c", "retrained": "#76746d", "embedding_reset": "#2f6690"}
AMONG = ", ten images among 500 others"
NAMES = {"erased": "erased", "retrained": "never saw it", "embedding_reset": "label row reset"}


def rises(line: Line) -> dict[str, float]:
    """By how much the share of each attack but fine-tuning lies above the retrained model's; empty without one."""
    if "retrained" not in line["scores"]:
        return {}
    erased, floor = values_of(line, "erased"), values_of(line, "retrained")
    return {name: erased[name] - floor[name] for name in line["probes"] if name not in FINE_TUNED and name in floor}


def figures(line: Line) -> Figures:
    """What one class is held to: shares and ratios, None where there is no retrained model to compare with."""
    scores = line["scores"]
    before, after, above = scores["original"], scores["erased"], rises(line)
    worst = max(above, key=above.__getitem__, default=None)
    return {
        "forget_accuracy": after["forget_accuracy"],
        "retain_drop": before["retain_accuracy"] - after["retain_accuracy"],
        "frechet_ratio": after["frechet"] / before["frechet"],
        "gap": gap(line) if "retrained" in scores else None,
        "rise": None if worst is None else above[worst],
        "rise_under": worst,
        "steps_ratio": steps_ratio(line),
        "ratio_by_attack": ratio_by_attack(line),
    }


def missed(found: Mapping[int, Figures]) -> list[str]:
    """Every figure that lies beyond its limit, in words."""
    rising = {label: row["rise"] for label, row in found.items() if row["rise"] is not None}
    furthest = max(rising, key=rising.__getitem__, default=None)
    lines = []
    for label, row in found.items():
        most = {**AT_MOST, "rise": FURTHEST_RISE if label == furthest else RISE}
        lines += [
            f"{label}: {name.replace('_', ' ')} {row[name]:.3g}, at most {limit:g}"
            for name, limit in most.items()
            if row[name] is not None and row[name] > limit
        ]
        if row["steps_ratio"] is not None and row["steps_ratio"] < STEPS_RATIO:
            lines.append(f"{label}: steps ratio {row['steps_ratio']:.3g}, at least {STEPS_RATIO:g}")
    return lines


def attack_rows(lines: Mapping[int, Line]) -> list[list[str]]:
    """Share in percent by attack and class, that of the retrained model behind a stroke where there is one."""
    return [[title, *(beside(line, name) for line in lines.values())] for name, title in ATTACKS.items()]


def beside(line: Line, name: str) -> str:
    """``0.6 / 2.8``: erased and, where there is one, retrained."""
    models = [who for who in ("erased", "retrained") if who in line["scores"]]
    return " / ".join(percent(values_of(line, who)[name]) for who in models)


def figure_rows(found: Mapping[int, Figures]) -> list[list[str]]:
    """The figures by class."""
    rows = {
        "retain accuracy lost, points": [f"{100 * row['retain_drop']:.1f}" for row in found.values()],
        "Frechet, times the original's": [f"{row['frechet_ratio']:.2f}" for row in found.values()],
        "steps to half, times the retrained model's": [ratio_in_words(row["steps_ratio"]) for row in found.values()],
        "gap to the retrained model": ["" if row["gap"] is None else in_words(row["gap"]) for row in found.values()],
    }
    return [[title, *cells] for title, cells in rows.items()]


def figures_as_json(line: Line) -> Figures | None:
    """The figures as JSON holds them, which has no infinity; None for an erasure that diverged."""
    if "diverged" in line:
        return None
    row = figures(line)
    ratios = {name: as_json(ratio) for name, ratio in row["ratio_by_attack"].items()}
    return {**row, "steps_ratio": as_json(row["steps_ratio"]), "ratio_by_attack": ratios}


def as_json(ratio: float | None) -> float | str | None:
    """A ratio of steps, infinity in a word."""
    return NEVER if ratio == math.inf else ratio


def tables(lines: Mapping[int, Line]) -> str:
    """Attacks and figures, and the pace of fine-tuning, for readers; a class that diverged has words in their place."""
    whole = {label: line for label, line in lines.items() if "diverged" not in line}
    rows = [*attack_rows(whole), *figure_rows({label: figures(line) for label, line in whole.items()})]
    text = markdown_table(["attack, share in percent", *map(str, whole)], rows, text_columns=1)
    pace = markdown_table(["fine-tuning, steps until half is back", *map(str, whole)], pace_rows(whole), text_columns=1)
    return "\n".join([text, *(f"{label} diverged\n" for label in lines if label not in whole), pace])


def overview(lines: Mapping[int, Line]) -> str:
    """The scores over all classes that did not diverge, for readers."""
    whole = [line for line in lines.values() if "diverged" not in line]
    found = [figures(line) for line in whole]
    shares = {"forget accuracy": "forget_accuracy", "old label row put back": "embedding_restore"}
    rows = [
        [title, *(span([values_of(line, who)[name] for line in whole]) for who in ("original", "erased"))]
        for title, name in shares.items()
    ]
    lost, ratios = [100 * row["retain_drop"] for row in found], [row["frechet_ratio"] for row in found]
    rows.append(["retain accuracy, points lost", "", f"{fmean(lost):.1f} on average, {max(lost):.1f} at most"])
    rows.append(
        ["Frechet distance, times the original's", "", f"{fmean(ratios):.2f} on average, {max(ratios):.2f} at most"]
    )
    return markdown_table([f"over {len(whole)} classes", "original", "after erasing"], rows, text_columns=3)


def span(shares: Sequence[float]) -> str:
    """``0.0 % to 1.4 %``."""
    return " to ".join(f"{100 * share:.1f} %" for share in (min(shares), max(shares)))


def write_summary(name: str, lines: Mapping[int, Line]) -> str:
    """Write ``NAME.json`` and the curves of relearning; returns the tables and what is missed."""
    whole = {label: line for label, line in lines.items() if "diverged" not in line}
    found = {label: figures(line) for label, line in whole.items()}
    beyond = [*missed(found), *(f"{label}: diverged" for label in lines if label not in whole)]
    limits = {**AT_MOST, "rise": RISE, "furthest_rise": FURTHEST_RISE, "steps_ratio": STEPS_RATIO}
    classes = {label: figures_as_json(line) for label, line in whole.items()}
    summary = {"classes": classes, "missed": beyond, "limits": limits, "environment": environment()}
    write_json(summary, RESULTS / f"{name}.json")
    draw(whole, RESULTS / f"{name}.png")
    return "\n".join([overview(lines), tables(lines), *(f"missed: {each}" for each in beyond)])


def draw(lines: Mapping[int, Line], path: Path) -> None:
    """What the strongest attacker has relearned by each step, and one who mixes images in: a panel for each class."""
    columns = min(5, len(lines))
    count = -(-len(lines) // columns)
    figure, axes = plt.subplots(
        count, columns, figsize=(2.5 * columns, 2.3 * count), layout="constrained", sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    panels = axes.flatten()
    for panel, (label, line) in zip(panels, lines.items(), strict=False):
        for who in (who for who in NAMES if who in line["probes"]["relearning"]):
            for curve, style, how in ((strongest_curve(line, who), "-", ""), (among_others(line, who), ":", AMONG)):
                steps, shares = zip(*curve, strict=True)
                name, back = f"{NAMES[who]}{how}", [100 * share for share in shares]
                panel.plot(steps, back, style, marker="o", ms=3, color=COLOURS[who], label=name)
        counted = [step for step, _ in strongest_curve(line, "erased")]
        panel.set(title=f"class {label}", ylim=(0, 103), xscale="log")
        panel.set_xticks(counted, [str(step) for step in counted])
        panel.minorticks_off()
    for panel in panels[len(lines) :]:
        panel.axis("off")
    axes[0][0].set_ylabel("share of images, %")
    axes[-1][0].set_xlabel("steps of fine-tuning")
    figure.legend(*labelled(panels), loc="outside lower center", ncols=len(NAMES), frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and let go of it."""
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def labelled(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Handles and names of every line that any panel has."""
    found = {name: handle for panel in panels for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)
