"""Image sets: labels by name, layouts, archives read in place, damaged files, sampling, fingerprints."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import archives
from pipelines.classes import AmbiguousClassError, ClassNames, UnknownClassError
from pipelines.errors import MissingError, UsageError
from pipelines.images import open_images

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
PHOTOGRAPHS = DATA / "imagenet-one-per-class"
CIFAR = DATA / "cifar10-test.zip"
CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="needs the photographs of ../shared/data")
needs_cifar = pytest.mark.skipif(not CIFAR.exists(), reason="needs cifar10-test.zip of ../shared/data")

PETS = ClassNames(("cat", "dog", "golden retriever"))


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


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Files by relative name."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pets(count: int = 3) -> dict[str, bytes]:
    """A few PNG files of each class."""
    return {
        f"{name}/{number}.png": encoded(noise(20, 16, seed=10 * place + number), "PNG")
        for place, name in enumerate(("cat", "dog", "golden_retriever"))
        for number in range(count)
    }


def test_labels_come_from_names_never_from_position(tmp_path: Path) -> None:
    """The wrong version numbers the folders that are present: dog would be 0."""
    write(tmp_path, {name: data for name, data in pets().items() if not name.startswith("cat")})
    images = open_images(tmp_path, PETS, image_size=16)
    assert images.labels.tolist() == [1, 1, 1, 2, 2, 2] and images.skipped == ()
    assert images.labels.dtype == torch.int64 and images.class_names is PETS
    position = {folder: place for place, folder in enumerate(sorted(path.name for path in tmp_path.iterdir()))}
    assert position["dog"] == 0


@needs_photographs
def test_photographs_and_a_partial_copy(tmp_path: Path) -> None:
    names = ClassNames.imagenet()
    images = open_images(PHOTOGRAPHS, names, image_size=32)
    assert len(images) == 1000 and images.labels.tolist() == list(range(1000)) and images.skipped == ()
    batch = images.read_available(range(1000))
    assert batch.pixels.shape == (1000, 3, 32, 32) and batch.skipped == []
    # Grey photographs have three equal channels; a few colour ones may as well.
    assert int((batch.pixels[:, :1] == batch.pixels).flatten(1).all(1).sum()) >= 23

    chosen = range(7, 1000, 25)
    for index in chosen:
        folder = tmp_path / "train" / names[index].wnid
        folder.mkdir(parents=True)
        (folder / "one.JPEG").symlink_to((PHOTOGRAPHS / names[index].wnid / f"{names[index].wnid}.JPEG").resolve())
    partial = open_images(tmp_path, names, image_size=32)
    assert partial.labels.tolist() == list(chosen) and len(chosen) == 40
    assert torch.equal(partial.read(range(40)), batch.pixels[list(chosen)])


@needs_cifar
def test_cifar_zip_is_read_in_place() -> None:
    images = open_images(CIFAR, ClassNames(CIFAR_NAMES), image_size=32)
    assert images.labels.bincount().tolist() == [1000] * 10 and images.skipped == ()
    frog = int((images.labels == 6).nonzero()[0])
    with zipfile.ZipFile(CIFAR) as archive:
        expected = Image.open(archive.open("test/frog/0000.jpg")).convert("RGB")
        assert torch.equal(images.read([frog])[0], pixels_of(expected))
    assert open_images(CIFAR, None, image_size=32, verify="names").class_names.labels == CIFAR_NAMES


@pytest.mark.parametrize("folder", ["crane", "Crane", "cardigan"])
def test_ambiguous_folder_is_refused_with_the_fix(tmp_path: Path, folder: str) -> None:
    write(tmp_path, {f"{folder}/0.png": encoded(noise(8, 8), "PNG")})
    for ignore_unknown in (False, True):
        with pytest.raises(AmbiguousClassError, match=rf"--data .*'{folder}'.*rename it to a wnid, an index") as raised:
            open_images(tmp_path, ClassNames.imagenet(), image_size=8, ignore_unknown=ignore_unknown)
        assert "517" in str(raised.value) or "474" in str(raised.value)


def test_unknown_folder_is_refused_or_passed_by(tmp_path: Path) -> None:
    write(tmp_path, pets() | {"horse/0.png": encoded(noise(8, 8), "PNG")})
    with pytest.raises(UnknownClassError, match=r"--forget-data .*'horse' is not exactly one class"):
        open_images(tmp_path, PETS, image_size=8, flag="--forget-data")
    images = open_images(tmp_path, PETS, image_size=8, ignore_unknown=True)
    assert len(images) == 9 and images.skipped == (("horse/", "not a class of the model"),)


def test_without_a_model_the_sorted_folders_are_the_classes(tmp_path: Path) -> None:
    write(tmp_path, pets() | {"empty/readme.txt": b"x", "10/a.png": encoded(noise(8, 8), "PNG")})
    images = open_images(tmp_path, None, image_size=8)
    assert images.class_names.labels == ("10", "cat", "dog", "golden_retriever")
    assert images.labels.tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    again = open_images(tmp_path, images.class_names, image_size=8, ignore_unknown=True)
    assert torch.equal(again.labels, images.labels)


@pytest.mark.parametrize(
    ("places", "first", "passed_by"),
    [
        (["{}"], "cat/0.png", set()),
        (["train/{}", "val/{}", "test/{}"], "train/cat/0.png", {"val/", "test/"}),
        (["wrapped/Training/{}", "wrapped/val/{}"], "wrapped/Training/cat/0.png", {"wrapped/val/"}),
        (["val/{}"], "val/cat/0.png", set()),
        (["wrapped/{}", "__MACOSX/{}", ".cache/{}"], "wrapped/cat/0.png", set()),
    ],
)
@pytest.mark.parametrize("make", [write, write_zip, write_tar])
@pytest.mark.parametrize("class_names", [PETS, None])
def test_layouts(
    tmp_path: Path, places: list[str], first: str, passed_by: set[str], make: Callable, class_names: ClassNames | None
) -> None:
    data = encoded(noise(8, 8), "PNG")
    files = {place.format(name): data for place in places for name in ("cat/0.png", "dog/deeper/1.png")}
    images = open_images(make(tmp_path / "set", files), class_names, image_size=8)
    assert images.labels.tolist() == [0, 1] and images.describe(0) == f"{tmp_path / 'set'}/{first}"
    assert {name for name, _ in images.skipped} == passed_by


def test_a_class_called_train(tmp_path: Path) -> None:
    """CIFAR-100 has one: a folder with folders is the split, a folder with images is the class."""
    names, data = ClassNames(("bus", "train")), encoded(noise(8, 8), "PNG")
    plain = write(tmp_path / "plain", {"bus/0.png": data, "train/0.png": data})
    split = write(tmp_path / "split", {"train/bus/0.png": data, "train/train/0.png": data, "test/bus/1.png": data})
    for root in (plain, split):
        assert open_images(root, names, image_size=8).labels.tolist() == [0, 1]


def test_several_splits_without_train_are_refused(tmp_path: Path) -> None:
    data = encoded(noise(8, 8), "PNG")
    write(tmp_path, {"val/cat/0.png": data, "test/cat/0.png": data})
    with pytest.raises(UsageError, match="splits test and val but no train"):
        open_images(tmp_path, PETS, image_size=8)


@pytest.mark.parametrize(
    ("files", "phrase"),
    [
        ({}, "no class folder with images"),
        ({"cat/readme.txt": b"x"}, "no class folder with images .cat/readme.txt: not named as an image"),
        ({"0.png": b"x"}, "images outside class folders"),
        ({"cat/0.png": b"plain text"}, "no readable image .cat/0.png: not an image"),
    ],
)
def test_nothing_to_read(tmp_path: Path, files: dict[str, bytes], phrase: str) -> None:
    with pytest.raises(UsageError, match=f"--data .*{phrase}.*one folder per class"):
        open_images(write(tmp_path, files), PETS, image_size=8)


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"--data .*nowhere does not exist; give an image folder"):
        open_images(tmp_path / "nowhere", PETS, image_size=8)
    with pytest.raises(UsageError, match="--data is empty"):
        open_images("", PETS, image_size=8)
    with pytest.raises(UsageError, match="compressed with gzip"):
        open_images(write_tar(tmp_path / "a.tar.gz", pets(), mode="w:gz"), PETS, image_size=8)
    with pytest.raises(UsageError, match="neither a folder nor an archive"):
        open_images(write(tmp_path, {"a.bin": b"abc"}) / "a.bin", PETS, image_size=8)
    cut = write_tar(tmp_path / "a.tar", pets()).read_bytes()[:3000]
    with pytest.raises(MissingError, match="cannot be read as an archive"):
        open_images(write(tmp_path, {"cut.tar": cut}) / "cut.tar", PETS, image_size=8)
    with pytest.raises(UsageError, match="image size is 0"):
        open_images(tmp_path, PETS, image_size=0)
    with pytest.raises(UsageError, match="verify is 'all'"):
        open_images(tmp_path / "a.tar", PETS, image_size=8, verify="all")


def test_damaged_files_are_named_and_never_fatal(tmp_path: Path) -> None:
    good, jpeg = encoded(noise(8, 8), "PNG"), encoded(noise(64, 64), "JPEG")
    write(tmp_path, {"cat/0.png": good, "cat/1.jpg": jpeg[: len(jpeg) // 2], "cat/2.jpg": b"an error page"})
    write(
        tmp_path,
        {"dog/3.png": good, "cat/empty.png": b"", "cat/notes.txt": b"x", "loose.png": good, "cat/.hidden.png": good},
    )
    (tmp_path / "cat" / "broken.png").symlink_to(tmp_path / "absent.png")
    by_name = {
        "loose.png": "not in a class folder", "cat/empty.png": "empty file", "cat/notes.txt": "not named as an image",
        "cat/broken.png": "not a regular file",
    }  # fmt: skip
    images = open_images(tmp_path, PETS, image_size=8, verify="names")
    assert dict(images.skipped) == by_name and len(images) == 4
    images = open_images(tmp_path, PETS, image_size=8)
    assert dict(images.skipped) == by_name | {"cat/2.jpg": "not an image"} and len(images) == 3

    # A truncated photograph is found when it is decoded.
    assert images.decode(1).pixels is None and "truncated" in images.decode(1).reason
    batch = images.read_available([2, 1, 0])
    assert batch.indices.tolist() == [2, 0] and batch.pixels.shape == (2, 3, 8, 8)
    assert batch.skipped[0][0] == f"{tmp_path}/cat/1.jpg" and "truncated" in batch.skipped[0][1]
    with pytest.raises(MissingError, match=r"cat/1.jpg cannot be decoded .*truncated"):
        images.read([0, 1])
    checked = open_images(tmp_path, PETS, image_size=8, verify="decoding")
    assert checked.labels.tolist() == [0, 1] and checked.skipped[-1][0] == "cat/1.jpg"
    assert images.read_available([1]).pixels.shape == (0, 3, 8, 8)


def test_a_file_that_disappears_is_a_reason(tmp_path: Path) -> None:
    images = open_images(write(tmp_path, pets()), PETS, image_size=8)
    (tmp_path / "cat" / "1.png").unlink()
    assert "cannot be read" in images.decode(1).reason
    assert len(images.decodable()) == 8


def test_a_folder_that_contains_itself(tmp_path: Path) -> None:
    write(tmp_path, pets())
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    assert len(open_images(tmp_path, PETS, image_size=8)) == 9


def test_key_is_that_of_the_content(tmp_path: Path) -> None:
    """Equal for folder, zip and tar wherever they lie; another for another name, size, byte, label, subset or order."""
    files = pets()
    folder = open_images(write(tmp_path / "a" / "train", files).parent, PETS, image_size=8)
    zipped = open_images(write_zip(tmp_path / "b.zip", files), PETS, image_size=8)
    tarred = open_images(write_tar(tmp_path / "c.tar", files), PETS, image_size=16)
    assert folder.key == zipped.key == tarred.key
    assert torch.equal(folder.read(range(9)), zipped.read(range(9)))
    assert torch.equal(zipped.read(range(9)), open_images(tmp_path / "c.tar", PETS, image_size=8).read(range(9)))

    changed = dict(files)
    changed["dog/1.png"] = files["dog/1.png"][:-1] + b"x"
    renamed = {name.replace("dog/1", "dog/9"): data for name, data in files.items()}
    permuted = ClassNames(("golden retriever", "dog", "cat"))
    others = [
        open_images(write(tmp_path / "d", changed), PETS, image_size=8),
        open_images(write(tmp_path / "e", renamed), PETS, image_size=8),
        open_images(tmp_path / "b.zip", permuted, image_size=8),
        folder.subset(range(8)),
        folder.subset(range(8, -1, -1)),
    ]
    assert len({images.key for images in [folder, *others]}) == 6
    assert folder.subset(torch.arange(9)).key == folder.key


@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_a_set_travels_to_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable) -> None:
    """Pickled for spawned workers; after a fork the zip is opened anew, since a shared handle shares its position."""
    images = open_images(make(tmp_path / "set", pets()), PETS, image_size=8)
    expected = images.read(range(9))
    assert torch.equal(pickle.loads(pickle.dumps(images)).read(range(9)), expected)
    if make is write_zip:
        inherited = images.store._archive()
        monkeypatch.setattr(archives.os, "getpid", lambda: -1)
        assert torch.equal(images.read(range(9)), expected) and images.store._archive() is not inherited
