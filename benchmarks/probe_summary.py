"""What ``benchmarks.probe_table`` found: tables for readers, a chart of the gap to retrain, one JSON for programs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.erasures import RESULTS
from erase.rundir import environment
from eval.charts import bar_chart
from eval.gap import gap_between
from pipelines.files import write_text
from pipelines.text import markdown_table

Line = Mapping[str, Any]
SHARES = ("forget_accuracy", "retain_accuracy")  # the scores that a gap is over, beside every probe
ALONE = "no optimizer"  # the series of methods that take no steps of the engine


def values_of(line: Line, who: str) -> dict[str, float]:
    """Scores and raw probe values of one model of a line, all shares."""
    probes = {name: rows[who]["value"] for name, rows in line["probes"].items() if who in rows}
    return {**{name: line["scores"][who][name] for name in SHARES}, **probes}


def gap(line: Line, who: str = "erased") -> float | None:
    """Mean absolute difference from the retrained model; None for a run that diverged."""
    if "diverged" in line:
        return None
    found = gap_between(values_of(line, who), values_of(line, "retrained"))
    return None if found is None else found.value


def in_words(found: float | None) -> str:
    """A gap as the chart says it."""
    return "diverged" if found is None else f"{found:.3f}"


def mean(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one is missing."""
    return None if None in values else statistics.fmean(values)


def by_method(lines: Mapping[Any, Line]) -> dict[str, dict[str, list[Line]]]:
    """Lines of every class, by method and optimizers."""
    found: dict[str, dict[str, list[Line]]] = {}
    for subject, line in lines.items():
        found.setdefault(subject.method, {}).setdefault(subject.optimizers or ALONE, []).append(line)
    return found


def gaps(lines: Mapping[Any, Line]) -> dict[str, dict[str, float | None]]:
    """Mean gap over the classes by method and optimizers, the smallest first, the original model last."""
    found = {
        method: {side: mean([gap(line) for line in each]) for side, each in sides.items()}
        for method, sides in by_method(lines).items()
    }
    whole = [line for line in lines.values() if "diverged" not in line]
    ordered = sorted(found, key=lambda method: min((v for v in found[method].values() if v is not None), default=9.0))
    return {
        **{name: found[name] for name in ordered},
        "original": {ALONE: mean([gap(each, "original") for each in whole])},
    }


def method_rows(lines: Mapping[Any, Line]) -> tuple[list[str], list[list[str]]]:
    """Means over the classes: a row for the original, the retrained model, and each method under each optimizers."""
    whole = [line for line in lines.values() if "diverged" not in line]
    names = sorted({name for line in whole for name in line["probes"]})
    header = ["method", "optimizers", *(name.replace("_", " ") for name in (*SHARES, "frechet", *names)), "gap"]
    rows = [described(who, "", whole, names, who=who) for who in ("original", "retrained")]
    for method, sides in by_method(lines).items():
        for side, each in sides.items():
            if any("diverged" in line for line in each):
                rows.append(
                    [f"`{method}`", side, f"diverged on {sum('diverged' in line for line in each)} of {len(each)}"]
                )
                continue
            rows.append(described(f"`{method}`", side, each, names, who="erased"))
    return header, [[*row, *[""] * (len(header) - len(row))] for row in rows]


def described(title: str, side: str, lines: Sequence[Line], probes: Sequence[str], *, who: str) -> list[str]:
    """One row of means."""
    values = [values_of(line, who) for line in lines]
    shares = [statistics.fmean(each[name] for each in values) for name in (*SHARES, *probes)]
    frechet = statistics.fmean(line["scores"][who]["frechet"] for line in lines)
    found = mean([gap(line, who) for line in lines])
    cells = [f"{value:.3f}" for value in shares]
    return [title, side, *cells[:2], f"{frechet:.2f}", *cells[2:], f"{found:.3f}"]


def class_rows(lines: Mapping[Any, Line]) -> tuple[list[str], list[list[str]]]:
    """One row for each class: the scores, and each attack as erased / retrained."""
    names = sorted({name for line in lines.values() for name in line["probes"]})
    header = ["class", "forget accuracy", "retain drop", "Frechet ratio", *(name.replace("_", " ") for name in names)]
    rows = []
    for subject, line in lines.items():
        before, after = line["scores"]["original"], line["scores"]["erased"]
        cells = [str(subject.forget_class), f"{after['forget_accuracy']:.3f}",
                 f"{before['retain_accuracy'] - after['retain_accuracy']:.3f}",
                 f"{after['frechet'] / before['frechet']:.2f}"]  # fmt: skip
        for name in names:
            found = line["probes"][name]
            floor = f" / {found['retrained']['value']:.2f}" if "retrained" in found else ""
            cells.append(f"{found['erased']['value']:.2f}{floor}")
        rows.append(cells)
    return header, rows


def write_summary(name: str, lines: Mapping[Any, Line]) -> str:
    """Write ``NAME.json``, for several methods also the chart; returns the table in Markdown."""
    several = len({subject.method for subject in lines}) > 1
    header, rows = method_rows(lines) if several else class_rows(lines)
    summary = {"header": header, "rows": rows, "environment": environment()}
    if several:
        found = gaps(lines)
        summary["gap_to_retrain"] = found
        write_text(bar_chart("Gap to retrain on digits", found, in_words=in_words), RESULTS / f"{name}.svg")
    write_text(json.dumps(summary, indent=2) + "\n", RESULTS / f"{name}.json")
    return markdown_table(header, rows, text_columns=2 if several else 1)
