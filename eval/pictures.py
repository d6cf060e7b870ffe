"""Images for people and for tools: grids, the before/after picture, PNG data URIs, the ADM evaluator's archive."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from pipelines.files import replace_file

WHITE = (255, 255, 255)
INK, MUTED = (28, 28, 30), (110, 110, 115)
CLEAR = (255, 255, 255, 0)
GAP = 0.06  # between the images of a page, as a share of one


def resized(images: Tensor, scale: float) -> Tensor:
    """uint8 images (N, 3, H, W) enlarged by whole pixels or reduced with antialiasing."""
    if scale >= 1:
        times = round(scale)
        return images.repeat_interleave(times, 2).repeat_interleave(times, 3)
    height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
    small = interpolate(images.float(), size=(height, width), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, *, columns: int, scale: float = 1, gap: int = 2, transparent: bool = False) -> Image.Image:
    """uint8 images (N, 3, H, W) in rows of ``columns``, on white or on nothing."""
    tiles = resized(images, scale)
    height, width = tiles.shape[-2:]
    rows = -(-len(tiles) // columns)
    size = (columns * (width + gap) - gap, max(1, rows) * (height + gap) - gap)
    canvas = Image.new("RGBA", size, CLEAR) if transparent else Image.new("RGB", size, WHITE)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        picture = Image.fromarray(tile.permute(1, 2, 0).contiguous().cpu().numpy())
        canvas.paste(picture, (column * (width + gap), row * (height + gap)))
    return canvas


def rows_of(picture: Image.Image, *, rows: int, gap: int = 2) -> list[Image.Image]:
    """The rows of a picture that ``grid`` made, each by itself."""
    pitch = (picture.height + gap) // rows
    return [picture.crop((0, top, picture.width, top + pitch - gap)) for top in range(0, rows * pitch, pitch)]


def before_after(
    rows: Sequence[tuple[str, Tensor, Tensor]],
    *,
    columns: int,
    scale: float = 1,
    titles: tuple[str, str] = ("before", "after"),
) -> Image.Image:
    """A labelled picture: each row is a class name, its images before and its images after on identical noise."""
    gap, margin, gutter = 4, 24, 28
    font, small = ImageFont.load_default(18), ImageFont.load_default(15)
    blocks = [[grid(images, columns=columns, scale=scale, gap=gap) for images in pair] for _, *pair in rows]
    label_width = max(round(small.getlength(name)) for name, *_ in rows) + 20
    panel = max(before.width for before, _ in blocks)
    top = margin + 34
    height = top + sum(max(block.height for block in pair) + 12 for pair in blocks) - 12 + margin
    canvas = Image.new("RGB", (2 * margin + label_width + 2 * panel + gutter, height), WHITE)
    draw = ImageDraw.Draw(canvas)

    lefts = (margin + label_width, margin + label_width + panel + gutter)
    for title, left in zip(titles, lefts, strict=True):
        draw.text((left, margin), title, font=font, fill=INK)
    for (name, *_), pair in zip(rows, blocks, strict=True):
        row_height = max(block.height for block in pair)
        draw.text((margin, top + row_height / 2), name, font=small, fill=MUTED, anchor="lm")
        for block, left in zip(pair, lefts, strict=True):
            canvas.paste(block, (left, top))
        top += row_height + 12
    return canvas


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG; it appears whole or not at all."""
    with replace_file(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def save_archive(drawn: Iterable[tuple[Tensor, Tensor]], path: Path, *, count: int) -> None:
    """Write npz as the ADM evaluator reads it: ``arr_0`` uint8 (N, H, W, 3) and ``arr_1`` class labels (N,), in order.

    ``drawn`` are batches of images (B, 3, H, W) and labels (B,), ``count`` of them in all; memory holds them once.
    """
    pixels, class_labels, done = None, np.empty(count, np.int64), 0
    for images, labels in drawn:
        if pixels is None:
            pixels = np.empty((count, *images.shape[2:], images.shape[1]), np.uint8)
        pixels[done : done + len(images)] = images.permute(0, 2, 3, 1).numpy()
        class_labels[done : done + len(images)] = labels.numpy()
        done += len(images)
    with replace_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, arr_0=pixels, arr_1=class_labels)


def data_uri(image: Image.Image) -> str:
    """A PNG data URI."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def placed(image: Image.Image) -> dict[str, Any]:
    """A picture of a page, with the size that keeps its place while the page loads."""
    return {"uri": data_uri(image), "width": image.width, "height": image.height}


def inlined(images: Tensor, *, columns: int, scale: float) -> dict[str, Any]:
    """A grid of uint8 images (N, 3, H, W) on nothing, for a page."""
    gap = max(2, round(GAP * scale * images.shape[-1]))
    return placed(grid(images, columns=columns, scale=scale, gap=gap, transparent=True))


def reduced(image: Image.Image, *, budget: int) -> Image.Image:
    """A picture whose base64 PNG stays under ``budget`` bytes: as it is, else so small that it would even as noise."""
    if len(data_uri(image)) <= budget:
        return image
    factor = (budget / (image.width * image.height * 3 * 4 / 3 * 1.02)) ** 0.5
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS) if factor < 1 else image


def scale_within(image_size: int, num_images: int, *, budget: int, preferred: int) -> float:
    """Scale at which ``num_images`` square images stay under ``budget`` bytes of base64 PNG even if they were noise.

    Reduces where the budget or ``preferred`` pixels a side ask for it, otherwise enlarges by whole pixels up to about
    ``preferred``, which costs next to nothing in a PNG.
    """
    affordable = (budget / (max(1, num_images) * 3 * 4 / 3 * 1.02)) ** 0.5
    limit = min(preferred, affordable)
    return limit / image_size if limit < image_size else preferred // image_size
