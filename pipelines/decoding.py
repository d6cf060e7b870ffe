"""Image files to square RGB pixels: every mode that occurs in the wild, and the centre crop of ADM (2105.05233)."""

import io
import struct

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # none that runs another program
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
HEADER_BYTES = 16
LONGEST_SIDE = 100  # times the shorter side; resizing anything longer would take gigabytes

# What Pillow raises on damaged files, by format.
BROKEN = (OSError, EOFError, SyntaxError, ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error,
          ZeroDivisionError, NotImplementedError, Image.DecompressionBombError)  # fmt: skip


class UnreadableImage(ValueError):
    """The bytes of a file do not decode to an image; the message is the reason."""


def has_image_header(start: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a format that ``decode_image`` reads."""
    return (
        start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*"))
        or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")
        or (start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace())
    )


def decode_image(data: bytes, *, image_size: int) -> Tensor:
    """Pixels uint8 (3, S, S) of an image file: upright, RGB, centre crop. Raises ``UnreadableImage``."""
    pixels = np.array(centre_crop(load_rgb(data), image_size=image_size))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def load_rgb(data: bytes) -> Image.Image:
    """An image file at its own size, upright and RGB. Raises ``UnreadableImage``."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return to_rgb(upright(image), sixteen_bits=image.mode == "I" and image.format == "PNG")
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image in a known format") from error
    except BROKEN as error:
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise UnreadableImage(kind + str(error).strip().split("\n")[0]) from error


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; damaged EXIF data counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except BROKEN:
        return image


def to_rgb(image: Image.Image, *, sixteen_bits: bool) -> Image.Image:
    """Three channels of 8 bits: 16 bits are scaled, transparency becomes white.

    ``sixteen_bits`` says that mode ``I`` holds 16-bit values, as older versions of Pillow read PNG.
    """
    if image.mode.startswith("I;16") or sixteen_bits:
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"32-bit pixels (mode {image.mode}) have no defined range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return image.convert("RGB")


def centre_crop(image: Image.Image, *, image_size: int) -> Image.Image:
    """The square in the centre, as the reference statistics of ADM and DiT were made.

    Halved by box averaging while the shorter side is at least twice the target, bicubic to the target's side, then
    cropped; a border that cannot be split evenly is one pixel thinner on the left or top.
    """
    if max(image.size) > LONGEST_SIDE * min(image.size):
        raise UnreadableImage(f"{image.width}x{image.height} pixels: one side over {LONGEST_SIDE} times the other")
    while min(image.size) >= 2 * image_size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = image_size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))
