"""Decoding: every mode to RGB, EXIF, damaged files; the ADM crop in closed forms and a second implementation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.decoding import UnreadableImage, centre_crop, decode_image, has_image_header


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """A random RGB image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels_of(image: Image.Image) -> torch.Tensor:
    """(3, H, W) of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_exact_modes() -> None:
    """Modes whose value in RGB is known exactly, as a constant image."""
    grey16 = Image.fromarray(np.full((8, 8), 257 * 77, dtype=np.uint16))
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 20, 30])
    clear = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    half = Image.new("LA", (8, 8), (0, 51))
    index_clear = encoded(palette, "PNG", transparency=3)
    for data, expected in [
        (encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG"), (1, 2, 3)),
        (encoded(Image.new("L", (8, 8), 40), "PNG"), (40, 40, 40)),
        (encoded(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255)),
        (encoded(grey16, "PNG"), (77, 77, 77)),
        (encoded(grey16, "TIFF"), (77, 77, 77)),
        (encoded(palette, "PNG"), (10, 20, 30)),
        (encoded(palette, "GIF"), (10, 20, 30)),
        (index_clear, (255, 255, 255)),
        (encoded(clear, "PNG"), (255, 255, 255)),
        (encoded(half, "PNG"), (204, 204, 204)),
        (encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PPM"), (1, 2, 3)),
        (encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "BMP"), (1, 2, 3)),
        (encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
    ]:
        pixels = decode_image(data, image_size=8)
        assert pixels.dtype == torch.uint8 and pixels.shape == (3, 8, 8) and pixels.is_contiguous()
        assert torch.equal(pixels, torch.tensor(expected, dtype=torch.uint8)[:, None, None].expand(3, 8, 8))


@pytest.mark.parametrize(("cmyk", "rgb"), [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255))])
def test_cmyk_jpeg(cmyk: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    pixels = decode_image(encoded(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=95), image_size=16)
    assert (pixels.float().mean((1, 2)) - torch.tensor(rgb)).abs().max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    """Each of the eight orientations of one upright picture decodes to that picture."""
    upright = noise(12, 12)
    stored = {
        1: upright, 2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 3: upright.rotate(180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.rotate(90), 7: upright.transpose(Image.Transpose.TRANSVERSE), 8: upright.rotate(-90),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        assert torch.equal(decode_image(encoded(stored, kind, exif=exif), image_size=12), pixels_of(upright))


def test_damaged_files_give_a_reason() -> None:
    jpeg, png = encoded(noise(64, 64), "JPEG"), encoded(noise(64, 64), "PNG")
    tall = encoded(Image.new("L", (1, 300)), "PNG")
    floating = encoded(Image.new("F", (8, 8)), "TIFF")
    for data, reason in [
        (b"just text", "not an image"), (b"", "not an image"), (jpeg[: len(jpeg) // 2], "truncated"),
        (png[: len(png) // 2], "truncated"), (jpeg[:10], "."), (tall, "one side over 100 times"), (floating, "32-bit"),
    ]:  # fmt: skip
        with pytest.raises(UnreadableImage, match=reason) as raised:
            decode_image(data, image_size=8)
        assert str(raised.value) and "0x" not in str(raised.value) and "\n" not in str(raised.value)


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """Rows of weights of an antialiased bicubic resize (a = -0.5), written from the kernel's definition."""
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    x = np.abs((np.arange(source)[None] + 0.5 - centres[:, None]) / stretch)
    a = -0.5
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


def reference_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """ADM's crop in matrices: (H, W, 3) float to (S, S, 3)."""
    while min(pixels.shape[:2]) >= 2 * size:
        assert pixels.shape[0] % 2 == pixels.shape[1] % 2 == 0
        pixels = np.floor(pixels.reshape(pixels.shape[0], -1, 2, 3).mean(2) + 0.5)
        pixels = np.floor(pixels.reshape(-1, 2, pixels.shape[1], 3).mean(1) + 0.5)
    height, width = pixels.shape[:2]
    short = min(height, width)
    new_height, new_width = round(height * size / short), round(width * size / short)
    pixels = np.einsum("ij,hjc->hic", bicubic_matrix(width, new_width), pixels).round().clip(0, 255)
    pixels = np.einsum("ij,jwc->iwc", bicubic_matrix(height, new_height), pixels).round().clip(0, 255)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return pixels[top : top + size, left : left + size]


SIZES = [(100, 76), (76, 100), (63, 64), (20, 30), (200, 148), (256, 400), (32, 32)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crop_equals_an_independent_implementation(width: int, height: int) -> None:
    image = noise(width, height, seed=width)
    cropped = np.asarray(centre_crop(image, image_size=32)).astype(float)
    assert cropped.shape == (32, 32, 3)
    assert np.abs(cropped - reference_crop(np.asarray(image).astype(float), 32)).max() <= 1


def test_crop_closed_forms() -> None:
    """A shorter side of the target size is a plain slice; from twice the target on, 2x2 blocks are averaged first."""
    wide = noise(45, 32)
    assert np.array_equal(centre_crop(wide, image_size=32), np.asarray(wide)[:, 6:38])
    blocks = np.asarray(noise(32, 32)).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(centre_crop(Image.fromarray(blocks), image_size=32), blocks[::2, ::2])
    # Bicubic alone, without halving, is another image.
    plain = Image.fromarray(blocks).resize((32, 32), Image.Resampling.BICUBIC)
    assert not np.array_equal(plain, blocks[::2, ::2])


def test_headers() -> None:
    image = noise(8, 8)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        assert has_image_header(encoded(image, kind)[:16])
    for start in (b"", b"P", b"<!DOCTYPE html>", b"plain text", b"RIFF....AVI LIST", b"\x00" * 16):
        assert not has_image_header(start)
