"""The sections of the report as plain data for its template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pipelines.text import listed

from . import charts, words
from .gates import gates_of, judged
from .metric import displays, metric_class, title
from .pictures import inlined, placed, reduced
from .probe_parts import STRIP_IMAGES, gap_view
from .sweep import outcome, sweep_table
from .values import difference
from .words import Record, class_name, number

PANEL_COLUMNS = 4
MAX_CLASS_BARS, MAX_SEEN_BARS = 16, 6
MODELS = ("original", "erased")
TITLES = {"original": "Before", "erased": "After", "retrained": "Retrained"}
MAX_PREVIEWS, PREVIEW_BUDGET = 12, 900_000  # bytes of base64 for all previews


def summary(record: Record) -> str:
    """The outcome in two sentences."""
    names = words.quoted_forget_names(record)
    others = len(record["class_names"]) - len(record["forget_classes"]) - len(earlier_of(record))
    sentences = []
    if "forget_accuracy" in record["erased"]:
        now, before = (number(record[model]["forget_accuracy"]["value"], "share") for model in ("erased", "original"))
        sentences.append(f"Asked for {names}, the model draws it in {now} of images. Before, it was {before}.")
    if "retain_accuracy" in record["erased"]:
        now, before = (number(record[model]["retain_accuracy"]["value"], "share") for model in ("erased", "original"))
        whose = "The other class is" if others == 1 else f"The other {others:,} classes are"
        sentences.append(f"{whose} recognised in {now} of their images; before, in {before}.")
    return " ".join(sentences)


def headline_stats(record: Record) -> list[dict[str, Any]]:
    """The numbers at the top: what became of the class, of the others, and how far that is from retraining."""
    keys = ("forget_accuracy", "retain_accuracy", "frechet")
    stats = [headline_stat(score(record, key)) for key in keys if key in record["erased"]]
    gap = gap_view(record)
    if gap:
        stats.append(
            {"title": "Gap to retrain", "now": gap["value"], "notes": [f"was {gap['original']}, lower is better"]}
        )
    return stats


def headline_stat(found: Mapping[str, str]) -> dict[str, Any]:
    """A score with what it was, and its interval where it has one."""
    notes = [f"was {found['before']}, {found['direction']}"]
    notes += [f"95 % interval {found['interval']}"] if found["interval"] else []
    return {"title": found["title"], "now": found["now"], "notes": notes}


def score_rows(record: Record) -> list[dict[str, Any]]:
    """Every value with its interval in words, then the classes that earlier erasures removed."""
    earlier = [earlier_score(record, label) for label in earlier_of(record)]
    return [score(record, key) for key in words.ordered_keys(record)] + earlier


def earlier_of(record: Record) -> dict[str, Any]:
    """Entries of the classes that were erased before, by label; none for a base model."""
    return record.get("earlier", {})


def earlier_score(record: Record, label: str) -> dict[str, Any]:
    """One class that was erased before, as a score."""
    entry = record["earlier"][label]
    now, before = entry["erased"], entry["original"]
    return {
        "title": f"Forget accuracy of {class_name(record, label)}, erased before",
        "meaning": "Whether a class that an earlier erasure removed came back; it counts in no other score.",
        "direction": words.direction("forget_accuracy"),
        "first": True,
        "now": number(now["value"], "share"),
        "before": number(before["value"], "share"),
        "retrained": "",
        "change": words.change(difference(now, before), "share"),
        "verdict": words.returned(entry),
        "interval": words.interval(now, "share"),
        "n": f"{now['n']:,}",
    }


def score(record: Record, key: str) -> dict[str, Any]:
    """One value."""
    show, entry, retrained = displays()[key], record["erased"][key], record.get("retrained", {}).get(key)
    return {
        "title": title(key, record["feature_space"]),
        "meaning": show.meaning,
        "direction": words.direction(key),
        "first": key in words.FIRST,
        "now": number(entry["value"], show.unit),
        "before": number(record["original"][key]["value"], show.unit),
        "retrained": number(retrained["value"], show.unit) if retrained else "",
        "retrained_interval": words.interval(retrained, show.unit) if retrained else "",
        "change": words.change(record["delta"][key], show.unit),
        "verdict": words.verdict(key, record["delta"][key]),
        "interval": words.interval(entry, show.unit),
        "n": f"{entry['n']:,}",
    }


def skipped_rows(record: Record) -> list[tuple[str, str]]:
    """Metrics that could not be measured, and why."""
    space = record["feature_space"]
    return [
        (listed([title(show.key, space) for show in metric_class(name).shows]), why)
        for name, why in record["skipped"].items()
    ]


def sample_rows(
    record: Record, samples: Mapping[str, Tensor], sampled_classes: Sequence[int], *, scale: float
) -> list[dict[str, Any]]:
    """One row of pictures per class: panels for the erased classes, strips for the others."""
    rows = []
    for place, label in enumerate(sampled_classes):
        erased = label in record["forget_classes"]
        count = samples["original"].shape[1] if erased else STRIP_IMAGES
        columns = PANEL_COLUMNS if erased else STRIP_IMAGES
        models = [model for model in TITLES if model in samples and (erased or model in MODELS)]
        pictures = {model: inlined(samples[model][place, :count], columns=columns, scale=scale) for model in models}
        entries = {model: per_class(record, model).get(str(label)) for model in models}
        rows.append(
            {
                "name": class_name(record, label),
                "erased": erased,
                "note": note(record, label),
                "count": min(count, samples["original"].shape[1]),
                "accuracy": {
                    model: number(entry["value"], "share") if entry else "" for model, entry in entries.items()
                },
                "pictures": pictures,
                "panels": [(model, TITLES[model]) for model in models],
            }
        )
    return rows


def note(record: Record, label: int) -> str:
    """What sets a class apart from the other classes: ``erased``, ``erased before``, ``neighbour`` or nothing."""
    if label in record["forget_classes"]:
        return "erased"
    return "erased before" if str(label) in earlier_of(record) else "neighbour" * (label in record["neighbours"])


def per_class(record: Record, model: str) -> dict[str, Any]:
    """Accuracy entries of all classes of one model: forget, retain, and erased before."""
    entries = (record.get(model, {}).get(key, {}) for key in ("forget_accuracy", "retain_accuracy"))
    found = {label: value for entry in entries for label, value in entry.get("detail", {}).get("per_class", {}).items()}
    return found | {label: entry[model] for label, entry in earlier_of(record).items() if model in entry}


def class_bars(record: Record) -> dict[str, Any]:
    """Accuracy by class: the erased ones, then the most damaged."""
    before, after = (per_class(record, model) for model in MODELS)
    measured = [label for label in after if label in before and after[label]["value"] is not None]
    damage = {label: before[label]["value"] - after[label]["value"] for label in measured}
    forget = [label for label in measured if note(record, int(label)).startswith("erased")]
    retained = sorted((label for label in measured if label not in forget), key=lambda label: -damage[label])
    shown, hidden = retained[:MAX_CLASS_BARS], retained[MAX_CLASS_BARS:]
    bars = [
        {
            "name": class_name(record, label),
            "erased": label in forget,
            "note": note(record, int(label)),
            "before": before[label]["value"],
            "after": after[label]["value"],
            "change": words.change({"value": -damage[label]}, "share"),
        }
        for label in [*forget, *shown]
    ]
    worst = words.change({"value": -damage[hidden[0]]}, "share") if hidden else ""
    images = min((after[label]["n"] for label in retained), default=0)
    return {"bars": bars, "hidden": len(hidden), "worst_hidden": worst, "images": images}


def appearance(record: Record) -> list[dict[str, Any]]:
    """What each erased label draws now, most frequent first."""
    found = []
    per_label = record["erased"].get("erased_top_share", {}).get("detail", {}).get("per_class", {})
    for label, entry in per_label.items():
        total = sum(entry["counts"].values())
        bars = [
            (class_name(record, seen), count / total, int(seen) in record["forget_classes"])
            for seen, count in entry["counts"].items()
        ]
        rest = sum(share for _, share, _ in bars[MAX_SEEN_BARS:])
        bars = bars[:MAX_SEEN_BARS] + ([("all others", rest, False)] if rest else [])
        entropy = number(entry["entropy"], "bits")
        found.append({"name": class_name(record, label), "bars": bars, "entropy": entropy, "n": f"{total:,}"})
    return found


def sweep_view(record: Record) -> dict[str, Any]:
    """Forget accuracy under other conditions, where it was measured, and what it says; empty where it was not."""
    rows = record.get("sweep", [])
    return {"rows": sweep_table(rows), "outcome": outcome(rows), "images": rows[0]["num_images"]} if rows else {}


def gates_view(record: Record) -> dict[str, Any]:
    """The gates that the record was held to: how many failed, and what became of each; empty without gates."""
    outcomes = judged(gates_of(record), record)
    if not outcomes:
        return {}
    failed, count = sum(not each.holds for each in outcomes), len(outcomes)
    if not failed:
        sentence = "The gate holds." if count == 1 else f"All {count} gates hold."
    else:
        sentence = "The gate failed." if count == 1 else f"{failed} of {count} gates failed."
    rows = [{"gate": str(each.gate), "finding": each.finding, "holds": each.holds} for each in outcomes]
    return {"failed": failed, "sentence": sentence, "rows": sorted(rows, key=lambda row: row["holds"])}


def preview_view(previews: Mapping[int, Path], history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The steps that a reader can go through, and how many there were; empty without previews."""
    last = history[-1]["step"] if history else 0
    words = {0: ", the original", last: ", the result"} if last else {0: ", the original"}
    rows = [{**row, "name": f"step {row['step']:,}{words.get(row['step'], '')}"} for row in preview_rows(previews)]
    return {"rows": rows, "count": len(previews)} if rows else {}


def preview_rows(previews: Mapping[int, Path], *, most: int = MAX_PREVIEWS) -> list[dict[str, Any]]:
    """Pictures that were taken during the erasure by step: evenly chosen ones, the first and the last among them."""
    steps = sorted(previews)
    count = min(len(steps), most)
    chosen = [steps[round(place * (len(steps) - 1) / max(1, count - 1))] for place in range(count)]
    rows = []
    for step in chosen:
        with Image.open(previews[step]) as image:
            picture = placed(reduced(image, budget=PREVIEW_BUDGET // count))
        rows.append({"step": step, "picture": picture})
    return rows


def training_charts(history: Sequence[Mapping[str, Any]]) -> list[charts.Chart]:
    """Losses and gradient norms over the steps, where they were logged."""
    drawn = [
        charts.line_chart(name, history, {f"{side}_{key}": f"{side} set" for side in ("forget", "retain")})
        for name, key in (("Denoising loss", "loss"), ("Gradient norm", "grad_norm"))
    ]
    return [chart for chart in drawn if chart is not None]
