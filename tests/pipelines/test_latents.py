"""Latents: encoded once, keyed by everything that changes them, drawn as posterior samples."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.classes import ClassNames
from pipelines.images import ArrayImages, open_images
from pipelines.latents import Latents, cache_key, encode_images, store, stored
from pipelines.model import DiT


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
    return Latents(mean=mean, std=std, class_labels=torch.tensor([5, 7]))


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
    assert not calls and len(list((tmp_path / "cache").iterdir())) == 1
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
    expected = encode_images(tiny, images, cache_dir=tmp_path, flip=False)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not safetensors" * 9}[damage])
    found = encode_images(tiny, images, cache_dir=tmp_path, flip=False)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(load_file(file)["mean"], expected.mean)


def test_store_and_stored(latents: Latents, tmp_path: Path) -> None:
    """Through a folder that does not exist yet, and no other file is left behind."""
    path = tmp_path / "new" / "latents.safetensors"
    assert stored(path) is None
    store(latents, path)
    found = stored(path)
    assert torch.equal(found.mean, latents.mean) and torch.equal(found.class_labels, latents.class_labels)
    assert list(path.parent.iterdir()) == [path]


def test_unreadable_images_are_left_out_by_the_set(tiny: DiT, picture_folder: Callable) -> None:
    folder = picture_folder(per_class=3)
    (folder / "alpha" / "001.png").write_bytes((folder / "alpha" / "001.png").read_bytes()[:60])
    found = open_images(folder, None, image_size=16).decodable()
    latents = encode_images(tiny, found, cache_dir=None, flip=False)
    assert latents.class_labels.tolist() == [0, 0, 1, 1, 1] and len(latents) == 5


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
