"""One self-contained HTML page: what was erased, what stayed, and how both were measured."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from pipelines.files import write_text

from . import report_parts as parts
from . import words
from .pictures import scale_within
from .probe import ProbeResult
from .probe_parts import STRIP_IMAGES, attacks_view, gap_view
from .words import Record, number

PICTURE_BUDGET = 3_800_000  # bytes of base64 for all pictures of a page but the previews
TILE = 128  # preferred pixels of one image


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page is made of; only the record is indispensable."""

    record: Record  # of eval.evaluate.evaluate, with its probes
    samples: Mapping[str, Tensor] = field(default_factory=dict)  # by model, (C, N, 3, H, W) uint8
    sampled_classes: Sequence[int] = ()  # the C classes
    probes: Mapping[str, Mapping[str, ProbeResult]] = field(default_factory=dict)  # run_probe's result by probe
    history: Sequence[Mapping[str, Any]] = ()  # lines of metrics.jsonl
    command: str = ""  # the exact command line
    facts: Mapping[str, str] = field(default_factory=dict)  # a few words about the run: method, optimizers, steps
    previews: Mapping[int, Path] = field(default_factory=dict)  # pictures that were taken during the erasure, by step


def write_report(path: Path, report: Report) -> None:
    """Write ``report.html``; it appears whole or not at all."""
    write_text(render_report(report), path)


def render_report(report: Report) -> str:
    """The page as text: no script, style, font or picture comes from anywhere else."""
    record, scale = report.record, tile_scale(report)
    view = {
        "title": words.headline(record),
        "erased": words.forget_names(record),
        "model": words.model_name(record),
        "summary": parts.summary(record),
        "caution": words.caution(record),
        "facts": report.facts,
        "stats": parts.headline_stats(record),
        "pictures": parts.sample_rows(record, report.samples, report.sampled_classes, scale=scale),
        "scores": parts.score_rows(record),
        "skipped": parts.skipped_rows(record),
        "classes": parts.class_bars(record),
        "appearance": parts.appearance(record),
        "sweep": parts.sweep_view(record),
        "gates": parts.gates_view(record),
        "attacks": attacks_view(record, report.probes, scale=scale),
        "gap": gap_view(record),
        "retrained": "retrained" in record,
        "previews": parts.preview_view(report.previews, report.history),
        "charts": parts.training_charts(report.history),
        "protocol": record["protocol"],
        "reference": record["reference"],
        "versions": record["versions"],
        "commands": [Markup.escape(each) for each in (report.command, *record.get("added_by", [])) if each],  # as typed
        "number": number,
    }
    return filled("report.html", view)


def filled(template: str, view: Mapping[str, Any]) -> str:
    """A template of this folder with a view: everything is escaped, a name that the view lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=keep_percent,
    )
    return environment.get_template(template).render(view)


def keep_percent(value: Any) -> Any:
    """Keep a percent sign on the line of its number."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if type(value) is str else value


def pictured_classes(record: Record, *, most: int = 10) -> list[int]:
    """Classes worth a picture: those erased now and before, neighbours, then others at random but always the same."""
    earlier = map(int, record.get("earlier", {}))
    chosen = list(dict.fromkeys([*record["forget_classes"], *earlier, *record["neighbours"]]))
    others = [label for label in range(len(record["class_names"])) if label not in chosen]
    count = min(len(others), max(0, most - len(chosen)))
    return chosen + sorted(random.Random(record["protocol"]["first_seed"]).sample(others, count))


def tile_scale(report: Report) -> float:
    """One scale for all pictures of the page, so that together they fit the budget."""
    forget, strips = report.record["forget_classes"], 0
    strips += sum(len(parts.MODELS) for label in report.sampled_classes if label not in forget)
    strips += sum(len(found) for found in report.probes.values())
    panels = sum(images.shape[1] for images in report.samples.values()) * len(forget)
    panels += report.samples["original"].shape[1] * len(forget) if report.samples else 0  # the copy that flips
    sizes = {images.shape[-1] for images in report.samples.values()}
    sizes |= {result.pictures.shape[-1] for found in report.probes.values() for result in found.values()}
    total = panels + strips * STRIP_IMAGES
    return scale_within(max(sizes), total, budget=PICTURE_BUDGET, preferred=TILE) if sizes else 1
