"""What ``benchmarks.probe_table`` found: tables for readers, a chart of the gap to retrain, one JSON for programs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.erasures import RESULTS
from erase.rundir import environment
from eval.charts import bar_chart
from eval.gap import gap_between
from pipelines.files import write_json, write_text
from pipelines.text import markdown_table

Line = Mapping[str, Any]
SHARES = ("forget_accuracy", "retain_accuracy")  # the scores that a gap is over, beside every probe
ATTACKS = {  # what an attacker does, in the order of a reader's table
    "forget_accuracy": "none: asked for by its label",
    "embedding_restore": "old label row put back",
    "embedding_inversion": "new label row learned",
    "label_mixing": "label rows mixed",
    "unconditional_mass": "drawn without a label",
    "completion": "begun by the original",
    "completion_from_image": "begun from a real image",
    "classifier_guidance": "steered by a classifier",
    "relearning_retained": "fine-tuned on other classes",
    "relearning": "fine-tuned on ten images",
}
TELLING = {  # the columns of the table of methods
    "forget_accuracy": "by its label",
    "embedding_inversion": "row learned",
    "label_mixing": "rows mixed",
    "classifier_guidance": "steered",
    "relearning": "fine-tuned",
    "retain_accuracy": "retain accuracy",
}
BESIDE = {  # models under the same attack
    "original": "original",
    "embedding_reset": "hidden by a row reset",
    "retrained": "never saw it",
    "erased": "erased",
}
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


def averaged(lines: Mapping[Any, Line]) -> list[tuple[str, str, dict[str, float] | str]]:
    """Title, optimizers and means over the classes: the original, the retrained model, each method on both sides.

    A method that diverged has words in the place of its means.
    """
    whole = [line for line in lines.values() if "diverged" not in line]
    rows: list[tuple[str, str, dict[str, float] | str]] = [
        (who, "", averages(whole, who)) for who in ("original", "retrained")
    ]
    for method, sides in by_method(lines).items():
        for side, each in sides.items():
            diverged = sum("diverged" in line for line in each)
            found = f"diverged on {diverged} of {len(each)}" if diverged else averages(each, "erased")
            rows.append((f"`{method}`", side, found))
    return rows


def averages(lines: Sequence[Line], who: str) -> dict[str, float]:
    """Means of scores, attacks and the gap of one model of each line, by name."""
    values = [values_of(line, who) for line in lines]
    found = {name: statistics.fmean(each[name] for each in values) for name in values[0]}
    frechet = statistics.fmean(line["scores"][who]["frechet"] for line in lines)
    return {**found, "frechet": frechet, "gap": statistics.fmean(gap(line, who) for line in lines)}


def method_rows(lines: Mapping[Any, Line]) -> tuple[list[str], list[list[str]]]:
    """All means, a row for each model."""
    probes = sorted({name for line in lines.values() for name in line.get("probes", ())})
    names = [*SHARES, "frechet", *probes, "gap"]
    rows = [
        [title, side, *([found, *[""] * (len(names) - 1)] if isinstance(found, str) else written(found, names))]
        for title, side, found in averaged(lines)
    ]
    return ["method", "optimizers", *(name.replace("_", " ") for name in names)], rows


def written(found: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Means as a program reads them."""
    return [f"{found[name]:.2f}" if name == "frechet" else f"{found[name]:.3f}" for name in names]


def class_rows(lines: Mapping[Any, Line]) -> tuple[list[str], list[list[str]]]:
    """The models of one method, a column for each class and model: scores and attacks, shares in percent."""
    shown = {(subject.forget_class, who): line for subject, line in lines.items() for who in models_of(line)}
    header = ["attack", *(f"{label}: {who}" for label, who in shown)]
    rows = [
        [title, *(percent(values_of(line, who)[name]) for (_, who), line in shown.items())]
        for name, title in ATTACKS.items()
    ]
    rows.append(["steps of it until half is back", *(steps_to_half(line, who) for (_, who), line in shown.items())])
    scores = [line["scores"][who] for (_, who), line in shown.items()]
    rows.append(["retain accuracy", *(percent(each["retain_accuracy"]) for each in scores)])
    rows.append(["Frechet", *(f"{each['frechet']:.2f}" for each in scores)])
    return header, rows


def models_of(line: Line) -> list[str]:
    """The models that a line has scores of, the erased one last."""
    return [who for who in ("original", "retrained", "erased") if who in line["scores"]]


def steps_to_half(line: Line, who: str) -> str:
    """Steps of relearning until half of the original's share was back; a dash where it never was."""
    if who == "original":
        return ""
    name = "steps_to_half" if who == "erased" else f"{who}_steps_to_half"
    found = line["recovery"]["relearning"].get(name)
    return "-" if found is None else f"{found:.1f}"


def percent(share: float) -> str:
    """A share as the tables say it."""
    return f"{100 * share:.1f}"


def readers_rows(lines: Mapping[Any, Line]) -> tuple[list[str], list[list[str]]]:
    """The table of methods with the attacks that tell most, shares in percent, the smallest gap first."""
    first, second, *methods = averaged(lines)
    methods.sort(key=lambda row: math.inf if isinstance(row[2], str) else row[2]["gap"])
    rows = []
    for title, side, found in (first, second, *methods):
        if isinstance(found, str):
            rows.append([title, side, found, *[""] * (len(TELLING) + 1)])
            continue
        shares = (percent(found[name]) for name in TELLING)
        rows.append([title, side.replace(ALONE, ""), *shares, *written(found, ("frechet", "gap"))])
    return ["method", "optimizers", *TELLING.values(), "Frechet", "gap"], rows


def strength(lines: Mapping[Any, Line], controls: Mapping[int, Line]) -> str:
    """What each attack on the default finds where the class is there, hidden, absent and erased: means over classes.

    ``controls`` are the attacks on the erased models for a class that they keep, by erased class.
    """
    default = {subject.forget_class: line for subject, line in lines.items() if subject.is_default}
    whole = [label for label, line in default.items() if "diverged" not in line]
    rows = []
    for name in (name for name in ATTACKS if name not in SHARES):
        models = [[default[label]["probes"][name][who]["value"] for label in whole] for who in BESIDE]
        kept = [controls[label]["probes"][name]["value"] for label in whole]
        rows.append([ATTACKS[name], *(percent(statistics.fmean(shares)) for shares in (*models, kept))])
    header = ["attack, share in percent", *BESIDE.values(), "kept class, after erasing"]
    return markdown_table(header, rows, text_columns=1)


def write_summary(name: str, lines: Mapping[Any, Line]) -> str:
    """Write ``NAME.json`` and a chart of the gaps; returns the tables for readers in Markdown."""
    header, rows = method_rows(lines)
    found = gaps(lines)
    summary = {"header": header, "rows": rows, "environment": environment(), "gap_to_retrain": found}
    write_text(bar_chart("Gap to retrain on digits", found, in_words=in_words), RESULTS / f"{name}.svg")
    write_json(summary, RESULTS / f"{name}.json")
    return tables(lines)


def tables(lines: Mapping[Any, Line]) -> str:
    """The default by class, and all methods."""
    chosen = sorted((subject for subject in lines if subject.is_default), key=lambda subject: subject.forget_class)
    default = {subject: lines[subject] for subject in chosen}
    texts = [markdown_table(*class_rows(default), text_columns=1)]
    return "\n".join([*texts, markdown_table(*readers_rows(lines), text_columns=2)])
