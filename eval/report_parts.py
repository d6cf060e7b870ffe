"""The sections of the report as plain data for its template."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipelines.text import listed

from . import charts, words
from .metric import displays, metric_class, title
from .pictures import data_uri, grid
from .probe import ProbeResult, describe_probe
from .sweep import outcome, sweep_table
from .values import difference
from .words import Record, class_name, number

PANEL_COLUMNS, STRIP_IMAGES, GAP = 4, 6, 0.06  # the gap is a share of a tile
MAX_CLASS_BARS, MAX_SEEN_BARS = 16, 6
CAUTION = 0.1  # loss of retain accuracy, or share of degenerate images, from which a low forget accuracy is no success
MODELS = ("original", "erased")
ROW_NAMES = {
    "original": "Original model",
    "embedding_reset": "Embedding reset (trivial baseline)",
    "retrained": "Retrained without the class (floor)",
    "erased": "Erased model",
    "control": "Erased model, the retained class “{control}”",
}


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


def caution(record: Record) -> str:
    """Why a low forget accuracy must not be taken for a clean erasure, where that is so."""
    loss = -(record["delta"].get("retain_accuracy", {}).get("value") or 0)
    blank = max(record["erased"].get(f"{side}_degenerate_rate", {}).get("value") or 0 for side in ("forget", "retain"))
    if blank >= CAUTION:
        return f"Read this with care: up to {number(blank, 'share')} of the images are blank or unreadable."
    if loss >= CAUTION:
        return f"Read this with care: the other classes lost {100 * loss:.0f} points, so damage explains part of it."
    return ""


def headline_stats(record: Record) -> list[dict[str, Any]]:
    """The three numbers at the top."""
    keys = ("forget_accuracy", "retain_accuracy", "frechet")
    return [score(record, key) for key in keys if key in record["erased"]]


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
        "change": words.change(difference(now, before), "share"),
        "verdict": words.returned(entry),
        "interval": words.interval(now, "share"),
        "n": f"{now['n']:,}",
    }


def score(record: Record, key: str) -> dict[str, Any]:
    """One value."""
    show, entry = displays()[key], record["erased"][key]
    return {
        "title": title(key, record["feature_space"]),
        "meaning": show.meaning,
        "direction": words.direction(key),
        "first": key in words.FIRST,
        "now": number(entry["value"], show.unit),
        "before": number(record["original"][key]["value"], show.unit),
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
    accuracies = [per_class(record, model) for model in MODELS]
    rows = []
    for place, label in enumerate(sampled_classes):
        erased = label in record["forget_classes"]
        count = samples["original"].shape[1] if erased else STRIP_IMAGES
        columns = PANEL_COLUMNS if erased else STRIP_IMAGES
        pictures = {model: inlined(samples[model][place, :count], columns=columns, scale=scale) for model in MODELS}
        entries = [accuracy.get(str(label)) for accuracy in accuracies]
        rows.append(
            {
                "name": class_name(record, label),
                "erased": erased,
                "note": note(record, label),
                "count": min(count, samples["original"].shape[1]),
                "accuracy": [number(entry["value"], "share") if entry else "" for entry in entries],
                "pictures": pictures,
            }
        )
    return rows


def note(record: Record, label: int) -> str:
    """What sets a class apart from the other classes: ``erased``, ``erased before``, ``neighbour`` or nothing."""
    if label in record["forget_classes"]:
        return "erased"
    return "erased before" if str(label) in earlier_of(record) else "neighbour" * (label in record["neighbours"])


def inlined(images: Tensor, *, columns: int, scale: float) -> dict[str, Any]:
    """A grid on nothing, with the size that keeps its place while the page loads."""
    gap = max(2, round(GAP * scale * images.shape[-1]))
    picture = grid(images, columns=columns, scale=scale, gap=gap, transparent=True)
    return {"uri": data_uri(picture), "width": picture.width, "height": picture.height}


def per_class(record: Record, model: str) -> dict[str, Any]:
    """Accuracy entries of all classes of one model: forget, retain, and erased before."""
    entries = (record[model].get(key, {}) for key in ("forget_accuracy", "retain_accuracy"))
    found = {label: value for entry in entries for label, value in entry.get("detail", {}).get("per_class", {}).items()}
    return found | {label: entry[model] for label, entry in earlier_of(record).items()}


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
        bars = [(class_name(record, seen), count / total) for seen, count in entry["counts"].items()]
        rest = sum(share for _, share in bars[MAX_SEEN_BARS:])
        bars = bars[:MAX_SEEN_BARS] + ([("all others", rest)] if rest else [])
        entropy = number(entry["entropy"], "bits")
        found.append({"name": class_name(record, label), "bars": bars, "entropy": entropy, "n": f"{total:,}"})
    return found


def sweep_view(record: Record) -> dict[str, Any]:
    """Forget accuracy under other conditions, where it was measured, and what it says; empty where it was not."""
    rows = record.get("sweep", [])
    return {"rows": sweep_table(rows), "outcome": outcome(rows), "images": rows[0]["num_images"]} if rows else {}


def probe_views(
    record: Record, probes: Mapping[str, Mapping[str, ProbeResult]], *, scale: float
) -> list[dict[str, Any]]:
    """Each probe: what the attack does, and its outcome on the erased model beside its controls."""
    views = []
    for name, found in probes.items():
        attacked = found["erased"].detail["class_label"]
        control = found["control"].detail["class_label"]
        rows = [probe_row(model, result, class_name(record, control), scale=scale) for model, result in found.items()]
        views.append(
            {
                "name": name.replace("_", " "),
                "class": class_name(record, attacked),
                "explanation": describe_probe(name),
                "rows": rows,
            }
        )
    return views


def probe_row(model: str, result: ProbeResult, control: str, *, scale: float) -> dict[str, Any]:
    """One model under attack."""
    images = result.pictures[:STRIP_IMAGES]
    return {
        "name": ROW_NAMES[model].format(control=control),
        "erased": model == "erased",
        "value": result.value or 0,
        "text": number(result.value, "share"),
        "interval": words.interval(result.to_dict(), "share"),
        "picture": inlined(images, columns=STRIP_IMAGES, scale=scale) if len(images) else None,
    }


def training_charts(history: Sequence[Mapping[str, Any]]) -> list[charts.Chart]:
    """Losses and gradient norms over the steps, where they were logged."""
    drawn = [
        charts.line_chart(name, history, {f"{side}_{key}": f"{side} set" for side in ("forget", "retain")})
        for name, key in (("Denoising loss", "loss"), ("Gradient norm", "grad_norm"))
    ]
    return [chart for chart in drawn if chart is not None]
