"""Hugging Face data sets on disk: labels by name, splits, odd and damaged images, what is refused."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.classes import ClassNames
from pipelines.errors import MissingError, UsageError
from pipelines.hub_dataset import HubImages, is_hub_dataset
from pipelines.images import open_images
from pipelines.latents import encode_images
from pipelines.model import DiT
from pipelines.sources import check_source

datasets = pytest.importorskip("datasets")
PETS = ClassNames(("cat", "dog", "golden retriever"))
Row = tuple[bytes | None, int]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(*, seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """A random RGB image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def data_set(rows: Sequence[Row], names: Sequence[str], *, columns: Sequence[str] = ("image", "label")) -> object:
    """A data set with a column of images and one of class labels."""
    features = datasets.Features(dict(zip(columns, (datasets.Image(), datasets.ClassLabel(names=names)), strict=True)))
    images = [None if data is None else {"bytes": data, "path": None} for data, _ in rows]
    return datasets.Dataset.from_dict(dict(zip(columns, (images, [label for _, label in rows]), strict=True)), features)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two images each of three classes, numbered in another order than the model's."""
    rows = [(encoded(noise(seed=number)), number % 3) for number in range(6)]
    data_set(rows, ("golden_retriever", "Dog", "cat")).save_to_disk(tmp_path / "pets")
    return tmp_path / "pets"


def test_labels_come_from_names_never_from_numbers(pets: Path, tmp_path: Path) -> None:
    """The wrong version takes the numbers of the data set: 0 is a golden retriever there and a cat here."""
    images = open_images(pets, PETS, image_size=16)
    assert isinstance(images, HubImages) and is_hub_dataset(pets) and not is_hub_dataset(tmp_path)
    assert images.labels.tolist() == [2, 1, 0, 2, 1, 0] and images.skipped == () and images.class_names is PETS
    assert images.describe(4) == f"{pets} row 4"

    # The pixels are those of the same files in folders.
    for number, label in enumerate(images.labels.tolist()):
        folder = tmp_path / "folder" / PETS[label].name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encoded(noise(seed=number)))
    files = open_images(tmp_path / "folder", PETS, image_size=16)
    assert torch.equal(images.read([2, 5, 1, 4, 0, 3]), files.read(range(6)))
    assert torch.equal(images.of_classes([1]).read([1]), images.read([4]))


def test_the_train_split_is_taken(pets: Path, tmp_path: Path) -> None:
    whole = datasets.load_from_disk(str(pets))
    splits = {"test": whole.select([0]), "train": whole.select([1, 2, 4])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "splits")
    images = open_images(tmp_path / "splits", PETS, image_size=16)
    assert images.labels.tolist() == [1, 0, 1] and images.skipped == (("test/", "beside train/, not mixed in"),)
    assert torch.equal(images.read([1]), open_images(pets, PETS, image_size=16).read([2]))
    datasets.DatasetDict(test=whole, dev=whole).save_to_disk(tmp_path / "others")
    with pytest.raises(UsageError, match=r"--data .* holds the splits test and dev but no train"):
        open_images(tmp_path / "others", PETS, image_size=16)
    assert len(open_images(tmp_path / "others" / "dev", PETS, image_size=16)) == 6


def test_every_kind_of_image_is_read_as_from_a_folder(tmp_path: Path) -> None:
    """Grey, palette, CMYK, transparent, rotated by EXIF; damaged rows are left out with their reason."""
    turned, exif = noise(seed=5), Image.Exif()
    exif[0x0112] = 6
    kinds = [
        encoded(noise(seed=1).convert("L")),
        encoded(noise(seed=2).convert("P")),
        encoded(noise(seed=3).convert("CMYK"), "JPEG"),
        encoded(noise(seed=4).convert("RGBA")),
        encoded(turned, "JPEG", exif=exif, quality=95),
    ]
    damaged = [(encoded(noise(seed=6, size=(40, 40)), "JPEG")[:700], 0), (b"no image", 0), (b"", 0), (None, 0)]
    rows = [(data, 0) for data in kinds] + damaged + [(kinds[0], -1)]
    data_set(rows, ("cat", "never used")).save_to_disk(tmp_path / "odd")
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    for number, data in enumerate(kinds):
        (tmp_path / "folder" / "cat" / f"{number}.png").write_bytes(data)

    images = open_images(tmp_path / "odd", PETS, image_size=16)
    assert images.labels.tolist() == [0] * 6 and set(images.skipped) == {
        ("row 6", "not an image"), ("row 7", "holds no image"), ("row 8", "holds no image"), ("row 9", "has no label"),
    }  # fmt: skip
    assert torch.equal(images.read(range(5)), open_images(tmp_path / "folder", PETS, image_size=16).read(range(5)))
    assert images.decodable().skipped[-1][0] == "row 5" and len(images.decodable()) == 5


def test_the_key_follows_content_and_labels(pets: Path, tmp_path: Path) -> None:
    images = open_images(pets, PETS, image_size=16)
    copied = datasets.load_from_disk(str(pets))
    copied.save_to_disk(tmp_path / "copy")
    assert open_images(tmp_path / "copy", PETS, image_size=8).key == images.key
    copied.select(range(5)).save_to_disk(tmp_path / "fewer")
    other = ClassNames(("dog", "cat", "golden retriever"))
    others = [open_images(tmp_path / "fewer", PETS, image_size=16), open_images(pets, other, image_size=16)]
    assert len({each.key for each in (images, images.subset([0, 1]), *others)}) == 4


def test_latents_of_a_data_set(tiny: DiT, tmp_path: Path) -> None:
    rows = [(encoded(noise(seed=number)), number % 2) for number in range(4)] + [(encoded(noise(seed=9))[:90], 0)]
    data_set(rows, ("seven", "two")).save_to_disk(tmp_path / "set")
    images = open_images(tmp_path / "set", tiny.classes, image_size=tiny.image_size)
    latents = encode_images(tiny, images, cache_dir=tmp_path / "cache", flip=True)
    assert latents.class_labels.tolist() == [7, 2, 7, 2] and latents.skipped[0][0] == f"{tmp_path}/set row 4"


def test_without_a_model_the_sorted_names_are_the_classes(pets: Path) -> None:
    images = open_images(pets, None, image_size=8)
    assert images.class_names.labels == ("Dog", "cat", "golden_retriever")
    assert images.labels.tolist() == [2, 0, 1, 2, 0, 1]


def test_unknown_labels_are_refused_or_passed_by(tmp_path: Path) -> None:
    rows = [(encoded(noise(seed=1)), 0), (encoded(noise(seed=2)), 1)]
    data_set(rows, ("horse", "cat")).save_to_disk(tmp_path / "set")
    with pytest.raises(UsageError, match=r"--data .*: the label 'horse' is not exactly one class of the model"):
        open_images(tmp_path / "set", PETS, image_size=8)
    images = open_images(tmp_path / "set", PETS, image_size=8, ignore_unknown=True)
    assert images.labels.tolist() == [0] and images.skipped == (("label horse", "not a class of the model"),)


def test_columns_are_found_by_their_kind(tmp_path: Path) -> None:
    rows = [(encoded(noise(seed=1)), 1)]
    data_set(rows, ("dog", "cat"), columns=("img", "fine")).save_to_disk(tmp_path / "named")
    assert open_images(tmp_path / "named", PETS, image_size=8).labels.tolist() == [0]
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(tmp_path / "text")
    with pytest.raises(
        UsageError, match=r"needs one Image feature, or one called 'image', and has text \(Value\), label"
    ):
        open_images(tmp_path / "text", PETS, image_size=8)
    data_set([(None, 0), (encoded(noise(seed=1)), -1)], ("cat",)).save_to_disk(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no image with a label"):
        open_images(tmp_path / "none", PETS, image_size=8)


@pytest.mark.parametrize("damage", ["truncated", "missing", "state"])
def test_a_damaged_data_set_is_one_sentence(pets: Path, damage: str) -> None:
    (file,) = pets.glob("*.arrow")
    if damage == "state":
        (pets / "state.json").write_text("{")
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(MissingError, match=r"--data .*pets cannot be read as a Hugging Face data set: "):
        open_images(pets, PETS, image_size=8)


def test_without_the_extra_one_sentence_names_it(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_source(str(pets))
    monkeypatch.setitem(sys.modules, "datasets", None)
    for read in (check_source, lambda source: open_images(source, PETS, image_size=8)):
        with pytest.raises(MissingError, match=r"needs an extra: pip install 'dit-erase\[datasets\]'"):
            read(str(pets))
