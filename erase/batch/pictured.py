"""Pictures of a batch: the images that shards keep, of every method on the noise of the original."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval.pictures import inlined, scale_within
from eval.words import class_name, forget_names

from .draw import PICTURED
from .folder import BatchDir
from .report_parts import Scored
from .seed_table import SeedTable, row_names
from .shard_file import read_shard

MAX_CLASSES = 3  # columns of the table that are pictured
BUDGET = 3_000_000  # bytes of base64 for all pictures of a page
TILE = 96  # preferred pixels of one image

Drawn = dict[int, Tensor]  # images (N, 3, H, W) uint8 by class


def picture_view(table: SeedTable, scored: Sequence[Scored], folder: BatchDir) -> tuple[list[dict[str, Any]], bool]:
    """The first columns of the table in pictures, the original on top, and whether there are more columns.

    A model whose shards keep no image is left out, and all of a class whose original is.
    """
    found, names = [], row_names([each.record for each in scored])
    for name in table.classes[:MAX_CLASSES]:
        models = by_seed(name, scored, names)
        rows = {"original": (None, drawn_of(models[0][1], "original", folder))}
        for row, each in models:
            if row not in rows and (drawn := drawn_of(each, "erased", folder)):
                rows[row] = (each, drawn)
        order = [row for row, _ in table.rows if row in rows]
        if rows["original"][1] and len(rows) > 1:
            found.append((name, models[0][1], {row: rows[row] for row in order}))
    images = [image for _, _, rows in found for _, drawn in rows.values() for image in drawn.values()]
    sizes = [image.shape[-1] for image in images]
    scale = scale_within(max(sizes), sum(map(len, images)), budget=BUDGET, preferred=TILE) if sizes else 1
    return [class_view(*each, scale=scale) for each in found], len(table.classes) > MAX_CLASSES


def by_seed(name: str, scored: Sequence[Scored], rows: Sequence[str]) -> list[tuple[str, Scored]]:
    """The models of one column of the table with their rows, the lowest seed first."""
    found = [pair for pair in zip(rows, scored, strict=True) if forget_names(pair[1].record) == name]
    return sorted(found, key=lambda pair: pair[1].record["batch"]["seed"] or 0)


def class_view(
    name: str, model: Scored, rows: dict[str, tuple[Scored | None, Drawn]], *, scale: float
) -> dict[str, Any]:
    """One column of the table: a row of images for each model."""
    forget = model.unit.asked.forget_classes
    retained = next(label for label in rows["original"][1] if label not in forget)
    return {
        "erased": name,
        "retained": class_name(model.record, retained),
        "rows": [
            {
                "name": row,
                "seed": seed_words(each),
                "erased": inlined(
                    torch.cat([drawn[label] for label in forget if label in drawn]), columns=PICTURED, scale=scale
                ),
                "retained": inlined(drawn[retained], columns=PICTURED, scale=scale),
            }
            for row, (each, drawn) in rows.items()
        ],
    }


def seed_words(scored: Scored | None) -> str:
    """Which of the models of a row it is."""
    seed = None if scored is None else scored.record["batch"]["seed"]
    return "" if seed is None else f"seed {seed}"


def drawn_of(scored: Scored, side: str, folder: BatchDir) -> Drawn:
    """The images that the shards of one model keep for the report; empty unless all of them are there."""
    shards = [unit for unit in scored.unit.shards if unit.draw.side == side and unit.draw.label is None]
    wanted = shards[0].draw.pictured()
    kept: dict[int, Tensor] = {}
    for unit in shards:
        first = unit.first_block * unit.draw.block
        if not any(first <= place < first + unit.num_images for places in wanted.values() for place in places):
            continue
        shard = read_shard(unit.path(folder))
        if shard.images is not None:
            kept |= dict(zip(shard.facts.get("places", ()), shard.images, strict=False))
    if not all(place in kept for places in wanted.values() for place in places):
        return {}
    return {label: torch.stack([kept[place] for place in places]) for label, places in wanted.items()}
