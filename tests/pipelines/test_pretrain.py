"""Pre-training: adaLN-Zero, augmentation, and an image folder to a model folder that resumes and is never mixed up."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from pipelines.classifier import load_classifier
from pipelines.embedding import label_table
from pipelines.errors import UsageError
from pipelines.images import ImageSet, open_images
from pipelines.latents import encode_images
from pipelines.model import DiT, load
from pipelines.pretrain import fit as fit_module
from pipelines.pretrain import train
from pipelines.pretrain.augment import random_affine
from pipelines.pretrain.recipe import Recipe, recipe_of
from pipelines.pretrain.train import pretrain
from pipelines.pretrain.transformer import build_dit, train_transformer

RECIPE = Recipe(
    image_size=16,
    classifier_steps=40,
    classifier_learning_rate=2e-3,
    vae_channels=(8, 8, 8),
    vae_steps=30,
    vae_learning_rate=2e-3,
    vae_kl_weight=2e-3,
    patch_size=2,
    num_layers=1,
    num_attention_heads=2,
    attention_head_dim=8,
    transformer_steps=254,  # a few more than one checkpoint
    transformer_learning_rate=1e-3,
    label_dropout=0.1,
    ema_half_life=100.0,
    batch_size=16,
)
SHORT = replace(RECIPE, classifier_steps=2, vae_steps=2, transformer_steps=4)


class Made(NamedTuple):
    """A finished pre-training."""

    model: DiT
    folder: Path
    data: Path


@pytest.fixture(scope="module")
def made(picture_folder: Callable, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Forty pictures of two classes, trained without an interruption. Not to be changed."""
    data, folder = picture_folder(), tmp_path_factory.mktemp("made") / "model"
    return Made(pretrain(str(data), folder, recipe=RECIPE), folder, data)


@pytest.fixture
def pictures(made: Made) -> ImageSet:
    """The pictures that the finished model was trained on."""
    return open_images(made.data, None, image_size=16)


def weights(folder: Path) -> dict[str, bytes]:
    """Every weight file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_an_untrained_network_predicts_zero(made: Made) -> None:
    """adaLN-Zero: every block is the identity and the output is zero, while label rows and projections are not."""
    model = build_dit(made.model.vae, ["a", "b", "c"], RECIPE)
    passed = []
    for block in model.transformer.transformer_blocks:
        block.register_forward_hook(lambda _, args, output: passed.append(torch.equal(args[0], output)))
    latents = torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    output = model.predict(latents, torch.tensor([0, 9, 500, 999]), torch.arange(4))
    assert output.shape == (4, 8, 4, 4) and output.abs().max() == 0
    assert passed == [True] * RECIPE.num_layers
    assert label_table(model.transformer).shape == (4, 16) and model.null_class == 3
    assert label_table(model.transformer).std().item() == pytest.approx(0.02, rel=0.5)
    assert model.transformer.transformer_blocks[0].attn1.to_q.weight.abs().max() > 0


def test_initial_weights_follow_the_recipes_seed(made: Made) -> None:
    first, same, other = (
        build_dit(made.model.vae, ["a", "b"], replace(RECIPE, seed=seed)).transformer for seed in (0, 0, 1)
    )
    assert torch.equal(label_table(first), label_table(same))
    assert not torch.equal(label_table(first), label_table(other))


def test_augmentation_without_bounds_is_the_identity() -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    same = random_affine(images, degrees=0, scale=0, shift=0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, images.float() / 255 * 2 - 1, rtol=0, atol=1e-4)


def test_augmentation_is_drawn_per_image_within_its_bounds() -> None:
    """The centre of a bright spot moves by at most the shift, differently in each of 200 copies."""
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[..., 14:18, 14:18] = 255
    moved = random_affine(
        image.expand(200, -1, -1, -1), degrees=0, scale=0, shift=0.25, generator=torch.Generator().manual_seed(0)
    )
    mass = (moved[:, 0] + 1) / 2
    grid = torch.arange(32) - 15.5
    for axis in (1, 2):
        offset = (mass.sum(3 - axis) * grid).sum(1) / mass.sum((1, 2))
        assert 0.85 * 4 < offset.abs().max() < 4.05  # a quarter of half the image is four pixels
        assert offset.mean().abs() < 4 * 4 / math.sqrt(3 * 200) and offset.unique().numel() > 150


def test_training_follows_its_data(made: Made) -> None:
    """Without label dropout only the rows of classes that were seen move, and the network stays in eval mode."""
    model = build_dit(made.model.vae, ["a", "b", "c"], RECIPE)
    before = label_table(model.transformer).detach().clone()
    images = open_images(made.data, None, image_size=16)
    latents = encode_images(model, images, cache_dir=None, flip=False)
    train_transformer(model, latents, replace(SHORT, label_dropout=0.0), checkpoint_path=None, progress=False)
    moved = (label_table(model.transformer) != before).any(1)
    assert moved.tolist() == [True, True, False, False] and not model.transformer.training


def test_result_is_a_model_folder(made: Made) -> None:
    """Names from the folders, the recipe in the provenance, half precision on disk, nothing else beside it."""
    assert made.model.classes.labels == ("alpha", "beta") and made.model.image_size == 16
    assert recipe_of(made.model.provenance) == RECIPE
    assert made.model.provenance["data"] == str(made.data)
    state = load_file(made.folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert os.listdir(made.folder.parent) == ["model"]
    assert load_classifier(made.model.classifier_dir).num_classes == 2


def test_latents_have_unit_variance(made: Made, pictures: ImageSet) -> None:
    """The scaling factor that was measured: posterior samples of the training images, all channels together."""
    latents = encode_images(made.model, pictures, cache_dir=None, flip=False)
    samples = latents.draw(torch.arange(40).repeat(20), generator=torch.Generator().manual_seed(0))
    assert samples.std().item() == pytest.approx(1, abs=0.03)


def test_classifier_learns(made: Made, pictures: ImageSet) -> None:
    predicted = load_classifier(made.model.classifier_dir).predict(pictures.read(range(40)))
    assert (predicted == pictures.labels).float().mean() > 0.9


def test_vae_restores_the_large_shapes(made: Made, pictures: ImageSet) -> None:
    """Which half is bright survives encoding and decoding."""
    pixels = pictures.read(range(40))
    restored = made.model.decode(made.model.encode(pixels)[0]).float()
    brighter = (restored[:, :, :8] - restored[:, :, 8:]).mean((1, 2, 3)) > 0
    assert torch.equal(brighter, pictures.labels == 1)


def test_the_same_call_returns_the_finished_model(made: Made) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    again = pretrain(str(made.data), made.folder, recipe=RECIPE)
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before
    assert torch.equal(label_table(again.transformer), label_table(made.model.transformer))


def test_another_recipe_is_refused(made: Made, tmp_path: Path) -> None:
    """For a finished folder and for the unfinished work beside one; also other data or other classes left out."""
    with pytest.raises(UsageError, match="a model of another recipe"):
        pretrain(str(made.data), made.folder, recipe=replace(RECIPE, seed=1))
    with pytest.raises(UsageError, match="a model of another recipe"):
        pretrain(str(made.data), made.folder, recipe=RECIPE, without=["beta"])

    work_dir = tmp_path / "model.partial"
    train.claim(work_dir, {"recipe": {"seed": 0}})
    before = (work_dir / "provenance.json").read_bytes()
    with pytest.raises(UsageError, match="unfinished work of another recipe"):
        pretrain(str(made.data), tmp_path / "model", recipe=RECIPE)
    assert (work_dir / "provenance.json").read_bytes() == before


def test_without_leaves_the_row_untrained(made: Made, tmp_path: Path) -> None:
    """The class keeps its name and its initial row, while the other rows and the null row move."""
    model = pretrain(str(made.data), tmp_path / "model", recipe=SHORT, without=["alpha"])
    initial = label_table(build_dit(model.vae, ["alpha", "beta"], SHORT).transformer).half().float()
    assert model.classes.labels == ("alpha", "beta") and model.provenance["without"] == ["alpha"]
    moved = (label_table(model.transformer) != initial).any(1)
    assert moved.tolist() == [False, True, True]


def test_an_unknown_name_is_refused_before_any_work(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--without gamma is not one of alpha, beta"):
        pretrain(str(made.data), tmp_path / "model", recipe=SHORT, without=["gamma"])
    assert os.listdir(tmp_path) == []


def test_parts_of_another_model_are_shared(made: Made, tmp_path: Path) -> None:
    """The VAE and the classifier are the other's, bit for bit; only the transformer is trained."""
    pretrain(str(made.data), tmp_path / "model", recipe=SHORT, parts_of=made.model)
    expected, found = weights(made.folder), weights(tmp_path / "model")
    assert expected.keys() == found.keys() and len(found) == 3
    assert {name for name in found if found[name] != expected[name]} == {
        "transformer/diffusion_pytorch_model.safetensors"
    }


def killed_at_first_checkpoint(data: Path, folder: Path) -> None:
    """Pre-training in a process that SIGKILL ends right after its first checkpoint is on disk."""
    keep = fit_module.keep

    def keep_and_die(*arguments: object) -> None:
        keep(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    fit_module.keep = keep_and_die
    pretrain(str(data), folder, recipe=RECIPE)


def test_a_killed_run_resumes_bit_for_bit(made: Made, tmp_path: Path) -> None:
    """Killed inside the transformer's training: the finished stages are kept, and the result is the same."""
    folder = tmp_path / "model"
    command = [sys.executable, __file__, str(made.data), str(folder)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, timeout=300)
    assert killed.returncode == -signal.SIGKILL and not folder.exists()
    work_dir = tmp_path / "model.partial"
    assert torch.load(work_dir / "transformer.checkpoint", weights_only=True)["step"] == 250

    pretrain(str(made.data), folder, recipe=RECIPE)
    assert weights(folder) == weights(made.folder) and len(weights(folder)) == 3
    assert os.listdir(tmp_path) == ["model"]


def test_recipes_come_back_from_provenance(made: Made) -> None:
    assert recipe_of(load(made.folder).provenance) == RECIPE
    assert recipe_of({}) is None


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the tests have, so that sums have one order
    killed_at_first_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
