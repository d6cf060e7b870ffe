"""Latents: encoded once, keyed by everything that changes them, drawn as posterior samples."""

import copy
import json
import math
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines import latents as latents_module
from pipelines.classes import ClassNames
from pipelines.errors import UsageError
from pipelines.images import ArrayImages, FileImages, open_images
from pipelines.latents import Latents, cache_key, encode_images, kept_part
from pipelines.model import DiT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def images() -> ArrayImages:
    """Ten random pictures of three classes."""
    pixels = torch.randint(0, 256, (10, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return ArrayImages(pixels=pixels, labels=torch.arange(10) % 3, class_names=ClassNames(("a", "b", "c")))


@pytest.fixture
def latents() -> Latents:
    """Two images with two copies each, of means that tell them apart and deviations that differ."""
    mean = torch.tensor([[0.0, 10.0], [20.0, 30.0]])[:, :, None, None, None].expand(2, 2, 4, 2, 2)
    std = torch.tensor([[1.0, 1.0], [0.1, 0.1]])[:, :, None, None, None].expand(2, 2, 4, 2, 2)
    return Latents.in_memory(mean=mean, std=std, class_labels=torch.tensor([5, 7]))


def test_latents_are_those_of_the_encoder(tiny: DiT, images: ArrayImages) -> None:
    """Copy 0 is the image, copy 1 its mirror image; the size of the encoding batch does not matter."""
    latents = encode_images(tiny, images, cache_dir=None, flip=True, batch_size=4)
    assert latents.mean.shape == latents.std.shape == (10, 2, *tiny.latent_shape)
    for copy_index, pixels in enumerate((images.pixels, images.pixels.flip(3))):
        mean, std = tiny.encode(pixels)
        torch.testing.assert_close(latents.mean[:, copy_index], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(latents.std[:, copy_index], std, rtol=1e-4, atol=1e-5)
    assert torch.equal(latents.class_labels, images.labels)
    assert encode_images(tiny, images, cache_dir=None, flip=False).mean.shape == (10, 1, *tiny.latent_shape)


def test_cache_returns_the_same_bits(fresh: DiT, images: ArrayImages, tmp_path: Path) -> None:
    """The second call encodes nothing."""
    first = encode_images(fresh, images, cache_dir=tmp_path / "cache", flip=True)
    calls = []
    fresh.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    second = encode_images(fresh, images, cache_dir=tmp_path / "cache", flip=True)
    assert not calls and len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    for name in ("mean", "std", "class_labels"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def change_pixel(model: DiT, images: ArrayImages) -> tuple[DiT, ArrayImages]:
    pixels = images.pixels.clone()
    pixels[9, 2, 15, 15] ^= 1
    return model, ArrayImages(pixels=pixels, labels=images.labels, class_names=images.class_names)


def change_label(model: DiT, images: ArrayImages) -> tuple[DiT, ArrayImages]:
    labels = images.labels.flip(0)
    return model, ArrayImages(pixels=images.pixels, labels=labels, class_names=images.class_names)


def change_encoder(model: DiT, images: ArrayImages) -> tuple[DiT, ArrayImages]:
    model = copy.deepcopy(model)
    model.vae.encoder.conv_out.bias.data[0] += 1e-3
    return model, images


def change_scale(model: DiT, images: ArrayImages) -> tuple[DiT, ArrayImages]:
    model = copy.deepcopy(model)
    model.vae.register_to_config(scaling_factor=0.4)
    return model, images


@pytest.mark.parametrize("change", [change_pixel, change_label, change_encoder, change_scale])
def test_key_follows_what_changes_latents(tiny: DiT, images: ArrayImages, change: Callable) -> None:
    assert cache_key(*change(tiny, images), flip=False) != cache_key(tiny, images, flip=False)


def test_key_follows_the_flip(tiny: DiT, images: ArrayImages) -> None:
    assert cache_key(tiny, images, flip=True) != cache_key(tiny, images, flip=False)


def test_key_does_not_follow_the_transformer(fresh: DiT, images: ArrayImages) -> None:
    """An erased model finds the latents of the original."""
    before = cache_key(fresh, images, flip=False)
    fresh.transformer.proj_out_2.weight.data += 1
    assert cache_key(fresh, images, flip=False) == before == cache_key(copy.deepcopy(fresh), images, flip=False)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_cache_is_made_again(tiny: DiT, images: ArrayImages, tmp_path: Path, damage: str) -> None:
    expected = encode_images(tiny, images, cache_dir=tmp_path, flip=False).mean
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not safetensors" * 9}[damage])
    found = encode_images(tiny, images, cache_dir=tmp_path, flip=False)
    assert torch.equal(found.mean, expected)
    assert torch.equal(load_file(file)["mean"], expected)


def test_many_parts_are_one_set(
    tiny: DiT, images: ArrayImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of three images give the latents, the draws and the subsets of one part in memory, bit for bit."""
    monkeypatch.setattr(latents_module, "PART_IMAGES", 3)
    parted = encode_images(tiny, images, cache_dir=tmp_path, flip=True)
    assert [len(part) for part in parted.parts] == [3, 3, 3, 1]
    whole = Latents.in_memory(mean=parted.mean, std=parted.std, class_labels=parted.class_labels)
    assert parted.shape == whole.shape == whole.mean.shape == (10, 2, *tiny.latent_shape)
    assert torch.equal(parted.class_labels, images.labels)

    picked, twos = torch.tensor([9, 0, 4, 4, 8]), (parted.of_classes([2]), whole.of_classes([2]))
    for left, right in ((parted, whole), (parted.subset(picked), whole.subset(picked)), twos):
        assert torch.equal(left.mean, right.mean) and torch.equal(left.std, right.std)
        assert torch.equal(left.class_labels, right.class_labels)
        indices = torch.arange(len(left)).flip(0)
        first, second = (each.draw(indices, generator=torch.Generator().manual_seed(1)) for each in (left, right))
        assert torch.equal(first, second)
    both = parted.subset(picked).joined(whole.of_classes([1]))
    assert torch.equal(both.mean, torch.cat([whole.mean[picked], whole.mean[images.labels == 1]]))
    assert both.class_labels.tolist() == [0, 0, 1, 1, 2, 1, 1, 1]


def test_keys_follow_the_content(latents: Latents) -> None:
    """Not the object, nor where its tensors are; other rows or another order are other content."""
    tensors = {name: getattr(latents, name) for name in ("mean", "std", "class_labels")}
    assert Latents.in_memory(**tensors).key == latents.key == latents.subset(torch.tensor([0, 1])).key
    others = [latents.subset(torch.tensor(rows)) for rows in ([1, 0], [0], [0, 1, 1])]
    others += [Latents.in_memory(**{**tensors, name: tensors[name] + 1}) for name in tensors]
    assert len({each.key for each in (latents, *others)}) == 7


KILLED = """
import os, sys
from pathlib import Path
import torch
from pipelines import latents
from pipelines.images import open_images
from pipelines.model import load

torch.set_num_threads(1)
latents.PART_IMAGES = 4
save, files = latents.save_tensors, []
def save_and_die(path, *arguments, **named):
    if len(files) == 2:
        path.with_name(".half.tmp").write_bytes(b"half a part")
        os.kill(os.getpid(), 9)
    files.append(save(path, *arguments, **named))
latents.save_tensors = save_and_die
model, cache, folder = load(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
latents.encode_images(model, open_images(folder, None, image_size=16), cache_dir=cache, flip=True, batch_size=2)
"""


def test_a_killed_encoding_goes_on_where_it_was(
    fresh: DiT, saved: Path, picture_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a SIGKILL in the third of five parts, two parts stand; a truncated one of them is made again."""
    folder, cache = picture_folder(per_class=9), tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", KILLED, saved, cache, folder], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    first, second = sorted(cache.rglob("[0-9]*.safetensors"))
    kept, whole = first.stat().st_mtime_ns, second.read_bytes()
    second.write_bytes(whole[:-100])

    monkeypatch.setattr(latents_module, "PART_IMAGES", 4)
    images, batches = open_images(folder, None, image_size=16), []
    fresh.vae.encoder.register_forward_hook(lambda *_: batches.append(1))
    found = encode_images(fresh, images, cache_dir=cache, flip=True, batch_size=2)
    assert len(batches) == 2 * (2 + 2 + 2 + 1) and first.stat().st_mtime_ns == kept
    expected = encode_images(fresh, images, cache_dir=None, flip=True, batch_size=2)
    assert torch.equal(found.mean, expected.mean) and torch.equal(found.std, expected.std)
    assert found.key == expected.key and second.stat().st_size == len(whole)


def test_the_bar_counts_what_is_there(
    tiny: DiT, images: ArrayImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(latents_module, "PART_IMAGES", 4)
    encode_images(tiny, images, cache_dir=tmp_path, flip=False)
    sorted(tmp_path.rglob("*.safetensors"))[1].unlink()
    encode_images(tiny, images, cache_dir=tmp_path, flip=False, progress="encoding")
    assert "| 6/10" in capsys.readouterr().err
    encode_images(tiny, images, cache_dir=tmp_path, flip=False, progress="encoding")
    assert capsys.readouterr().err == ""


def sparse_part(path: Path, *, num_images: int, shape: tuple[int, ...]) -> None:
    """A part of zeros on a disk that stores none of them."""
    size = 4 * num_images * math.prod(shape)
    tensor = {"dtype": "F32", "shape": [num_images, *shape]}
    about = {"asked": [], "sha256": path.stem, "skipped": []}
    header = {
        "__metadata__": {"kind": latents_module.KIND, "metadata": json.dumps(about)},
        "mean": {**tensor, "data_offsets": [0, size]},
        "std": {**tensor, "data_offsets": [size, 2 * size]},
        "class_labels": {"dtype": "I64", "shape": [num_images], "data_offsets": [2 * size, 2 * size + 8 * num_images]},
    }
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + 2 * size + 8 * num_images)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_drawing_reads_what_is_drawn(tmp_path: Path) -> None:
    """Two GiB of latents: choosing images and drawing some reads those that are drawn."""
    paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in paths:
        sparse_part(path, num_images=2048, shape=(2, 4, 32, 32))
    before = resident_bytes()
    latents = Latents.of([kept_part(path, asked=[]) for path in paths])
    assert latents.shape == (16384, 2, 4, 32, 32)
    chosen = latents.of_classes([0]).subset(torch.arange(0, 16384, 2)).joined(latents)
    indices = torch.randint(len(chosen), (16,), generator=torch.Generator().manual_seed(0))
    drawn = chosen.draw(indices, generator=torch.Generator().manual_seed(1))
    assert drawn.shape == (16, 4, 32, 32) and chosen.key
    assert resident_bytes() - before < 2**28


def resident_bytes() -> int:
    """Memory that this process holds, mapped files included."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines["VmRSS"].split()[0])


def test_images_that_cannot_be_decoded_are_left_out_once(
    tiny: DiT, picture_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is decoded, and the reasons are still known."""
    monkeypatch.setattr(latents_module, "PART_IMAGES", 2)
    folder = picture_folder(per_class=3)
    for number in (0, 1):  # the whole first part
        path = folder / "alpha" / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:60])
    images = open_images(folder, None, image_size=16)
    first = encode_images(tiny, images, cache_dir=tmp_path, flip=True)
    assert first.class_labels.tolist() == [0, 1, 1, 1] and len(first.parts[0]) == 0
    monkeypatch.setattr(FileImages, "decode", None)
    again = encode_images(tiny, images, cache_dir=tmp_path, flip=True)
    assert torch.equal(again.mean, first.mean) and again.key == first.key
    assert again.skipped == first.skipped
    assert [(name, "truncated" in reason) for name, reason in first.skipped] == [
        (f"{folder}/alpha/{number:03d}.png", True) for number in (0, 1)
    ]


def test_a_set_without_any_decodable_image_is_refused(tiny: DiT, picture_folder: Callable) -> None:
    folder = picture_folder(("alpha",), per_class=2)
    for path in (folder / "alpha").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match=r"none of the 2 images can be decoded: .*alpha/000.png: .*truncated"):
        encode_images(tiny, open_images(folder, None, image_size=16), cache_dir=None, flip=False)


def test_draws_are_posterior_samples(latents: Latents) -> None:
    """mean + std * noise, with each copy as often as the other; not the mode."""
    draws = latents.draw(torch.ones(40_000, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    assert draws.shape == (40_000, 4, 2, 2)
    second = draws[:, 0, 0, 0] > 25
    assert second.float().mean().item() == pytest.approx(0.5, abs=0.01)
    for chosen, mean in ((second, 30), (~second, 20)):
        assert draws[chosen].mean().item() == pytest.approx(mean, abs=1e-3)
        assert draws[chosen].std().item() == pytest.approx(0.1, rel=0.01)


def test_draws_follow_their_indices_and_generator(latents: Latents) -> None:
    indices = torch.tensor([0, 1, 1, 0])
    first, second, other = (latents.draw(indices, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert (first.mean((1, 2, 3)) > 15).tolist() == [False, True, True, False]


def test_of_classes_and_subset(latents: Latents) -> None:
    seven = latents.of_classes([7, 99])
    assert len(seven) == 1 and seven.class_labels.tolist() == [7] and seven.mean[0, 0, 0, 0, 0] == 20
    assert latents.subset(torch.tensor([1, 0, 1])).class_labels.tolist() == [7, 5, 7]
    assert len(latents.of_classes([])) == 0
