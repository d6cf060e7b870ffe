"""Where training data come from: the embedded digits, folders by class name, the model's own samples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.classes import ClassNames
from pipelines.digits.data import NAMES, digit_images
from pipelines.errors import MissingError, UsageError
from pipelines.latents import cache_key, encode_images
from pipelines.model import DiT, save
from pipelines.replay import Replay
from pipelines.sources import (
    check_source,
    default_source,
    held_out_images,
    open_source,
    trained_on_digits,
    training_latents,
)


@pytest.fixture
def digits_model(fresh: DiT) -> DiT:
    """A model with the classes and the image size of the digits."""
    fresh.transformer.register_to_config(sample_size=8)
    assert fresh.image_size == 32
    return fresh


def test_default_source(fresh: DiT, tmp_path: Path) -> None:
    """The digits for a model that was made of them, or erased from such a one; else the model's own samples."""
    for name, provenance, expected in (
        ("other", {"data": "nothing"}, "replay"),
        ("pre-trained", {"data": "digits"}, "digits"),
        ("erased", {"original": {"data": "digits"}}, "digits"),
    ):
        fresh.provenance = provenance
        assert default_source(str(save(fresh, tmp_path / name))) == expected
    assert default_source("digits") == "digits"


def test_sources_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    for source in ("digits", "replay", str(tmp_path)):
        check_source(source)
    with pytest.raises(MissingError, match=r"--data nowhere does not exist; give a folder, a zip, digits or replay"):
        check_source("nowhere")


def test_folders_are_labelled_by_the_models_names(tiny: DiT, picture_folder: Callable) -> None:
    """Two of ten classes: their labels are the model's, not the folders' places; damaged files are left out."""
    folder = picture_folder(("two", "seven"), per_class=3)
    (folder / "two" / "000.png").write_bytes((folder / "two" / "000.png").read_bytes()[:60])
    images = open_source(str(folder), tiny)
    assert sorted(images.labels.tolist()) == [2, 2, 2, 7, 7, 7] and images.image_size == 16
    latents = training_latents(tiny, str(folder), replay=Replay(), seed=0, cache_dir=None, progress=False)
    assert sorted(latents.class_labels.tolist()) == [2, 2, 7, 7, 7]


def test_training_latents_of_a_folder_are_flipped(tiny: DiT, picture_folder: Callable, tmp_path: Path) -> None:
    folder = picture_folder(("two", "seven"), per_class=3)
    latents = training_latents(tiny, str(folder), replay=Replay(), seed=0, cache_dir=tmp_path / "cache", progress=False)
    expected = encode_images(tiny, open_source(str(folder), tiny), cache_dir=None, flip=True)
    assert latents.mean.shape[1] == 2
    assert torch.equal(latents.mean, expected.mean) and torch.equal(latents.class_labels, expected.class_labels)
    key = cache_key(tiny, open_source(str(folder), tiny), flip=True)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"latents-{key}"]


def test_digits_are_not_flipped(digits_model: DiT) -> None:
    """A mirrored digit is another sign."""
    latents = training_latents(digits_model, "digits", replay=Replay(), seed=0, cache_dir=None, progress=False)
    assert latents.mean.shape == (1397, 1, *digits_model.latent_shape)


@pytest.mark.parametrize("change", ["size", "names"])
def test_digits_are_not_for_other_models(digits_model: DiT, change: str) -> None:
    """Another image size would give latents of another shape, other classes wrong labels."""
    if change == "size":
        digits_model.transformer.register_to_config(sample_size=4)
    else:
        digits_model.classes = ClassNames([f"class {index}" for index in range(10)])
    with pytest.raises(UsageError, match="the embedded digits are 10 classes of 32 pixels"):
        open_source("digits", digits_model)
    with pytest.raises(UsageError, match="the embedded digits are 10 classes of 32 pixels"):
        held_out_images(digits_model, "digits")


def test_digits_have_a_fixed_split() -> None:
    """Forty of each class are held out, no image is in both parts, and together they are all there are."""
    train, held_out = digit_images("train"), digit_images("held-out")
    assert (len(train), len(held_out)) == (1397, 400) and train.image_size == 32
    assert held_out.labels.bincount().tolist() == [40] * 10
    assert train.key != held_out.key and digit_images("train").key == train.key
    seen = {pixels.numpy().tobytes() for pixels in train.pixels}
    assert sum(pixels.numpy().tobytes() in seen for pixels in held_out.pixels) == 0
    assert train.class_names.labels == NAMES


def test_held_out_images_of_digits(digits_model: DiT) -> None:
    """A model pre-trained on digits has its own, and so has one that was erased from it."""
    for provenance in ({"data": "digits"}, {"original": {"original": {"data": "digits"}}, "data": "replay"}):
        digits_model.provenance = provenance
        assert trained_on_digits(provenance) and len(held_out_images(digits_model, None)) == 400
    assert held_out_images(digits_model, "digits").labels.bincount().tolist() == [40] * 10


def test_held_out_images_of_other_models_are_asked_for(tiny: DiT, picture_folder: Callable) -> None:
    with pytest.raises(UsageError, match="--reference is needed"):
        held_out_images(tiny, None)
    images = held_out_images(tiny, str(picture_folder(("nine", "one"), per_class=2)))
    assert images.labels.tolist() == [9, 9, 1, 1]
    with pytest.raises(MissingError, match="--reference nowhere"):
        held_out_images(tiny, "nowhere")
