"""What a notebook shows of a result: pictures, scores and attacks as one self-contained piece of HTML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from . import report_parts as parts
from . import words
from .pictures import placed, reduced, rows_of
from .probe_parts import STRIP_IMAGES, attacks_view
from .report import filled, pictured_classes
from .words import Record, class_name, number

PICTURE_BUDGET = 1_500_000  # bytes of base64 for all pictures before and after
MAX_PREVIEWS = 6  # without a script they stand below one another


def render_result(record: Record, *, samples: Mapping[str, Path], previews: Mapping[int, Path]) -> str:
    """HTML without script, style sheet or link, legible where a host strips its styles.

    ``samples`` are the pictures of a run by model, a row for each of ``pictured_classes``; one that is not there leaves
    all out. ``previews`` were taken during the erasure, by step.
    """
    view = {
        "title": words.headline(record),
        "erased": words.forget_names(record),
        "summary": parts.summary(record),
        "caution": words.caution(record),
        "pictures": picture_rows(record, samples),
        "previews": parts.preview_rows(previews, most=MAX_PREVIEWS),
        "scores": [row for row in parts.score_rows(record) if row["first"]],
        "attacks": attacks_view(record, {}, scale=1),
    }
    return filled("result.html", view)


def picture_rows(record: Record, samples: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The erased classes and their neighbours, cut from the pictures of a run."""
    if not all(path.exists() for path in samples.values()):
        return []
    shown = pictured_classes(record)
    places = [place for place, label in enumerate(shown) if parts.note(record, label)]
    budget = PICTURE_BUDGET // (len(samples) * len(places))
    strips = {}
    for model, path in samples.items():
        with Image.open(path) as picture:
            strips[model] = [start_of(row) for row in rows_of(picture, rows=len(shown))]
    return [
        {
            "name": class_name(record, shown[place]),
            "note": parts.note(record, shown[place]),
            "strips": {
                model: {
                    "picture": placed(reduced(rows[place], budget=budget)),
                    "accuracy": accuracy(record, model, shown[place]),
                }
                for model, rows in strips.items()
            },
        }
        for place in places
    ]


def start_of(row: Image.Image, *, gap: int = 2) -> Image.Image:
    """The first of the square images that ``grid`` put into a row."""
    return row.crop((0, 0, min(row.width, STRIP_IMAGES * (row.height + gap) - gap), row.height))


def accuracy(record: Record, model: str, label: int) -> str:
    """In how many of its images a class is recognised; empty where that was not measured."""
    entry = parts.per_class(record, model).get(str(label))
    return number(entry["value"], "share") if entry else ""
