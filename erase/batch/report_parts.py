"""The sections of a batch's report as plain data for its template: the table, its best values, models and files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eval.metric import displays
from eval.words import forget_names, model_name, number
from pipelines.text import counted, listed

from ..rundir import RunDir
from .folder import BatchDir
from .seed_table import DAMAGED, FIRST, NOTHING, RETAINED, Cell, SeedTable
from .units import RecordUnit

MAX_STATS = 3


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One model that is scored."""

    unit: RecordUnit
    record: Mapping[str, Any]

    @property
    def original(self) -> str:
        """The model before the erasure, in one word."""
        return model_name(self.record)

    @property
    def about(self) -> str:
        """Method, class and seed."""
        labels = self.record["batch"]
        seed = "" if labels["seed"] is None else f"seed {labels['seed']}"
        return ", ".join(filter(None, [labels["method"], labels["settings"], forget_names(self.record), seed]))


def table_view(table: SeedTable) -> dict[str, Any]:
    """The table: yardsticks above, methods below."""
    most = max(len(cell.values) for name, cells in table.rows for cell in cells if name not in FIRST)
    rows = [
        {
            "name": name,
            "cells": [
                cell_view(cell, marked=place % len(table.keys) == 0, most=0 if name in FIRST else most)
                for place, cell in enumerate(cells)
            ],
        }
        for name, cells in table.rows
    ]
    return {
        "caption": table.caption,
        "classes": table.classes,
        "titles": table.titles,
        "yardsticks": [row for row in rows if row["name"] in FIRST],
        "methods": [row for row in rows if row["name"] not in FIRST],
        "notes": table.notes(best="Bold"),
    }


def cell_view(cell: Cell, *, marked: bool, most: int) -> dict[str, Any]:
    """One cell; ``most`` are the seeds of a complete one, 0 where that is no question."""
    count = len(cell.values)
    return {
        "text": cell.text,
        "best": cell.is_best,
        "damaged": cell.is_damaged,
        "mark": DAMAGED if cell.is_damaged and marked else "",
        "sort": "" if cell.mean is None else repr(cell.mean),
        "seeds": f"{count} of {counted(most, 'seed')}" if marked and 0 < count < most else "",
    }


def best_stats(table: SeedTable) -> list[dict[str, Any]]:
    """The lowest forget accuracy of each of the first classes, and whose it is."""
    if "forget_accuracy" not in table.keys or not table.is_judged:
        return []
    stats = []
    for name in table.classes[:MAX_STATS]:
        cells = table.column(name, "forget_accuracy")
        best = [row for row, cell in cells.items() if cell.is_best]
        was = f"was {number(cells['original'].mean, 'share')}, lower is better"
        now = f"{cells[best[0]].text} %" if best else "none"
        if not best:
            notes = ["no method keeps the other classes as they were", was]
        elif cells[best[0]].mean > cells["original"].mean / 2:
            now, notes = "none", [f"no method forgets half of the class; {listed(best)} comes nearest with {now}", was]
        else:
            notes = [f"by {listed(best)}", was, *retained_words(table, name, best[0])]
        stats.append({"title": f"Best forget accuracy, {name}", "now": now, "notes": notes})
    return stats


def retained_words(table: SeedTable, name: str, row: str) -> list[str]:
    """What became of the other classes, where the table says it."""
    if RETAINED not in table.keys:
        return []
    cells = table.column(name, RETAINED)
    return [f"retain accuracy {cells[row].text} %, was {number(cells['original'].mean, 'share')}"]


def model_row(scored: Scored, table: SeedTable, folder: BatchDir) -> dict[str, Any]:
    """One model with its values and what there is to read about it."""
    entries = [scored.record["erased"].get(key, {}).get("value") for key in table.keys]
    cells = [
        {"text": NOTHING if value is None else number(value, displays()[key].unit),
         "sort": "" if value is None else repr(value)}
        for key, value in zip(table.keys, entries, strict=True)
    ]  # fmt: skip
    run = RunDir(Path(scored.unit.asked.model))
    files = {"report": run.report_path, "record": scored.unit.path(folder)}
    links = [link(folder, path, words) for words, path in files.items() if path.exists()]
    return {"name": scored.record["batch"]["model"], "about": scored.about, "cells": cells, "links": links}


def link(folder: BatchDir, path: Path, words: str) -> dict[str, str]:
    """A link that holds wherever the folder of the batch is moved, as far as it goes into it."""
    where = Path(os.path.relpath(path.absolute(), folder.path.absolute())).as_posix()
    return {"href": quote(where), "words": words}
