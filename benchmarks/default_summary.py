"""What ``benchmarks.probe_table --default`` found: the shipped default on every class, and what it is held to.

Where a class has a retrained model, an attack may bring back a little more of it from the erased model than from that
one, and relearning may be a little faster: the figures are those below, and ``missed`` names what lies beyond them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.erasures import RESULTS
from benchmarks.probe_summary import ATTACKS, gap, in_words, percent, values_of
from erase.rundir import environment
from eval.recovery import steps_to_half
from pipelines.files import write_text
from pipelines.text import markdown_table

Line = Mapping[str, Any]
Curve = list[tuple[int, float]]  # share by steps
FINE_TUNED = ("relearning", "relearning_retained")  # held to their speed
RISE_OF_MOST, RISE_OF_ANY = 0.05, 0.12  # above the retrained model: all classes but one, and any
MOST = {"forget_accuracy": 0.01, "retain_drop": 0.02, "frechet_ratio": 1.15}
LEAST_PACE = 0.8  # steps to half of the class, in those of the retrained model
COLOURS = {"erased": "#b5361c", "retrained": "#76746d", "embedding_reset": "#2f6690"}
NAMES = {"erased": "erased", "retrained": "never saw it", "embedding_reset": "label row reset"}


def strongest_curve(line: Line, who: str) -> Curve:
    """The best share that any of the relearning attacks reached by each counted step."""
    attacks = line["probes"]["relearning"][who]["detail"]["attacks"].values()
    by_step = zip(*attacks, strict=True)
    return [(points[0][0], max(share for _, share in points)) for points in by_step]


def pace(line: Line) -> float | None:
    """Steps until half of the class is back under the strongest attack, in those of the retrained model.

    None where there is none, or where half never came back to one of the two.
    """
    if "retrained" not in line["scores"]:
        return None
    of = line["probes"]["relearning"]["original"]["value"]
    erased, retrained = (steps_to_half(strongest_curve(line, who), of=of) for who in ("erased", "retrained"))
    return None if erased is None or retrained is None else erased / retrained


def rises(line: Line) -> dict[str, float]:
    """By how much the share of each attack but fine-tuning lies above the retrained model's; empty without one."""
    if "retrained" not in line["scores"]:
        return {}
    erased, floor = values_of(line, "erased"), values_of(line, "retrained")
    return {name: erased[name] - floor[name] for name in line["probes"] if name not in FINE_TUNED}


def held_to(line: Line) -> dict[str, Any]:
    """The figures of one class that the default is held to."""
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
        "pace": pace(line),
    }


def missed(found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Every figure that lies beyond what the default is held to, in words."""
    lines = [
        f"{label}: {name.replace('_', ' ')} {row[name]:.3g}, at most {most:g}"
        for label, row in found.items()
        for name, most in MOST.items()
        if row[name] > most
    ]
    rising = {label: row["rise"] for label, row in found.items() if row["rise"] is not None}
    over = sorted(rising, key=rising.__getitem__)[:-1]  # one class may rise further
    lines += [f"{label}: rise {rising[label]:.3g}, at most {RISE_OF_MOST:g}" for label in over
              if rising[label] > RISE_OF_MOST]  # fmt: skip
    lines += [f"{label}: rise {rise:.3g}, at most {RISE_OF_ANY:g}" for label, rise in rising.items()
              if rise > RISE_OF_ANY]  # fmt: skip
    return lines + [
        f"{label}: pace {row['pace']:.3g}, at least {LEAST_PACE:g}"
        for label, row in found.items()
        if row["pace"] is not None and row["pace"] < LEAST_PACE
    ]


def attack_rows(lines: Mapping[int, Line]) -> tuple[list[str], list[list[str]]]:
    """Share in percent by attack and class, that of the retrained model behind a stroke where there is one."""
    header = ["attack, share in percent", *map(str, lines)]
    return header, [[title, *(beside(line, name) for line in lines.values())] for name, title in ATTACKS.items()]


def beside(line: Line, name: str) -> str:
    """``0.6 / 2.8``: erased and, where there is one, retrained."""
    models = [who for who in ("erased", "retrained") if who in line["scores"]]
    return " / ".join(percent(values_of(line, who)[name]) for who in models)


def target_rows(found: Mapping[int, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The figures by class."""
    rows = {
        "retain accuracy lost, points": [f"{100 * row['retain_drop']:.1f}" for row in found.values()],
        "Frechet, times the original's": [f"{row['frechet_ratio']:.2f}" for row in found.values()],
        "steps to half, times the retrained model's": [
            "" if row["pace"] is None else f"{row['pace']:.2f}" for row in found.values()
        ],
        "gap to the retrained model": ["" if row["gap"] is None else in_words(row["gap"]) for row in found.values()],
    }
    return ["", *map(str, found)], [[title, *cells] for title, cells in rows.items()]


def tables(lines: Mapping[int, Line]) -> str:
    """Attacks and figures in one table for readers."""
    header, rows = attack_rows(lines)
    _, figures = target_rows({label: held_to(line) for label, line in lines.items()})
    return markdown_table(header, [*rows, *figures], text_columns=1)


def write_summary(name: str, lines: Mapping[int, Line]) -> str:
    """Write ``NAME.json`` and the curves of relearning; returns the table and what is missed."""
    found = {label: held_to(line) for label, line in lines.items()}
    summary = {
        "classes": found,
        "missed": missed(found),
        "held_to": {**MOST, "rise": [RISE_OF_MOST, RISE_OF_ANY], "pace": LEAST_PACE},
        "environment": environment(),
    }
    write_text(json.dumps(summary, indent=2) + "\n", RESULTS / f"{name}.json")
    draw(lines, RESULTS / f"{name}.png")
    return "\n".join([tables(lines), *(f"missed: {each}" for each in summary["missed"])])


def draw(lines: Mapping[int, Line], path: Path) -> None:
    """What the strongest attacker has relearned by each step: a panel for each class."""
    columns = min(5, len(lines))
    count = -(-len(lines) // columns)
    figure, axes = plt.subplots(
        count, columns, figsize=(2.5 * columns, 2.3 * count), layout="constrained", sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    panels = axes.flatten()
    for panel, (label, line) in zip(panels, lines.items(), strict=False):
        for who in (who for who in NAMES if who in line["probes"]["relearning"]):
            steps, shares = zip(*strongest_curve(line, who), strict=True)
            panel.plot(steps, [100 * share for share in shares], marker="o", ms=3, color=COLOURS[who], label=NAMES[who])
        panel.set_title(f"class {label}", fontsize=10)
        panel.set_ylim(0, 103)
        panel.set_xscale("log")
        panel.set_xticks(steps, [str(step) for step in steps])
        panel.minorticks_off()
    for panel in panels[len(lines) :]:
        panel.axis("off")
    axes[0][0].set_ylabel("share of images, %")
    axes[-1][0].set_xlabel("steps of the strongest attack")
    figure.legend(*labelled(panels), loc="outside lower center", ncols=len(NAMES), frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def labelled(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Handles and names of every line that any panel has."""
    found = {name: handle for panel in panels for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)
