"""Original checkpoints: every shape in circulation, what is refused, and the forward pass against the paper's."""

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file

from pipelines.embedding import tie_embedders
from pipelines.errors import MissingError, UsageError
from pipelines.model import load, save
from pipelines.model_source import check_model, load_classes, transformer_config
from pipelines.original import HEADS, original_config, read_original, to_diffusers, to_original

WIDTH, HEAD_COUNT = 48, 4


@pytest.fixture
def state(original_dit):
    """A small network of the original layout: ten classes, 4x4 latents."""
    return original_dit.random_state(width=WIDTH, depth=3, num_classes=10, grid=2)


@pytest.fixture
def write(tmp_path, tiny_folder):
    """``write(content)``: a checkpoint with its companion file; the tiny model's VAE fits its latents."""

    def make(content, name="dit.pt", heads=HEAD_COUNT):
        path = tmp_path / name
        save_file(content, path) if name.endswith("safetensors") else torch.save(content, path)
        path.with_suffix(".dit.json").write_text(json.dumps({"num_attention_heads": heads}))
        return path

    return make


SHAPES = {
    "flat": lambda state: state,
    "ema": lambda state: {"ema": state, "model": {name: each + 1 for name, each in state.items()}, "opt": {"step": 3}},
    "model": lambda state: {"model": state, "args": argparse.Namespace(model="DiT-XL/2", lr=1e-4)},
    "module": lambda state: {"model": {f"module.{name}": each for name, each in state.items()}},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_four_shapes_in_circulation(state, write, shape):
    found = read_original(write(SHAPES[shape](state)))
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def test_safetensors_and_files_older_than_the_zip_format(state, write, tmp_path):
    assert all(torch.equal(each, state[name]) for name, each in read_original(write(state, "dit.safetensors")).items())
    old = tmp_path / "old.pt"
    torch.save(state, old, _use_new_zipfile_serialization=False)
    assert all(torch.equal(each, state[name]) for name, each in read_original(old).items())


class Payload:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_anything_but_weights_is_refused(state, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="holds more than weights and was not loaded"):
        read_original(write({"model": state, "extra": Payload()}))
    with pytest.raises(MissingError, match=r"holds more than weights|cannot be read"):
        (tmp_path / "raw.pt").write_bytes(pickle.dumps(Payload()))
        read_original(tmp_path / "raw.pt")
    assert not Path("ran").exists()
    whole = write(state).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingError, match="cannot be read"):
        read_original(tmp_path / "cut.pt")
    for name, content in (("empty.pt", b""), ("text.pt", b"hello"), ("zip.pt", b"PK")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MissingError, match=name):
            read_original(tmp_path / name)
    with pytest.raises(MissingError, match="holds a list"):
        read_original(write([1, 2]))
    with pytest.raises(UsageError, match=r"no checkpoint of the original DiT code: it has no x_embedder"):
        read_original(write({"weight": torch.zeros(3)}))
    others = {name.replace("blocks.", "en_blocks."): each for name, each in state.items()}
    with pytest.raises(UsageError, match=r"it has no blocks.0.attn.qkv.weight"):
        read_original(write(others))
    with pytest.raises(MissingError, match="does not exist"):
        read_original(tmp_path / "none.pt")


def test_heads_are_those_of_the_paper_or_must_be_said(state, write):
    path = write(state)
    path.with_suffix(".dit.json").unlink()
    with pytest.raises(UsageError, match=rf"width {WIDTH}, whose number of attention heads is .*dit.dit.json"):
        original_config(path)
    assert HEADS == {384: 6, 768: 12, 1024: 16, 1152: 16}


@pytest.mark.parametrize(
    ("width", "depth", "grid", "patch_size", "heads"),
    [(48, 1, 2, 2, 4), (64, 2, 4, 2, 2), (96, 5, 3, 4, 6), (384, 2, 8, 2, 6)],
)
def test_the_forward_pass_is_the_original_one(original_dit, write, width, depth, grid, patch_size, heads):
    state = original_dit.random_state(width=width, depth=depth, num_classes=7, grid=grid, patch_size=patch_size)
    transformer = DiTTransformer2DModel.from_config(original_config(write(state, heads=heads))).eval()
    transformer.load_state_dict(to_diffusers(state))
    tie_embedders(transformer, time_embedding="original")
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(5, 4, grid * patch_size, grid * patch_size, generator=draws)
    timesteps, labels = torch.tensor([0, 1, 37, 500, 999]), torch.tensor([0, 3, 6, 7, 1])
    with torch.no_grad():
        found = transformer(x, timestep=timesteps, class_labels=labels, return_dict=False)[0]
    expected = original_dit.forward(state, x, timesteps, labels, heads=heads)
    assert expected.std() > 0.1
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-5

    # The other time embedding is another network.
    other = DiTTransformer2DModel.from_config(original_config(write(state, heads=heads))).eval()
    other.load_state_dict(to_diffusers(state))
    tie_embedders(other, time_embedding="diffusers")
    with torch.no_grad():
        unlike = other(x, timestep=timesteps, class_labels=labels, return_dict=False)[0]
    assert ((unlike - expected).abs().max() / expected.abs().max()).item() > 1e-4


def test_names_go_there_and_back_bit_for_bit(state, write, tiny_folder):
    model = load(write(state), vae=str(tiny_folder / "vae"))
    exported = to_original(model.transformer)
    assert exported.keys() == state.keys()
    for name, tensor in state.items():
        if name == "pos_embed":
            torch.testing.assert_close(exported[name], tensor, rtol=0, atol=1e-6)
        else:
            assert torch.equal(exported[name], tensor), name


def test_a_checkpoint_is_a_model(state, write, tiny_folder, tmp_path):
    path, vae = write({"ema": state}), str(tiny_folder / "vae")
    check_model(path, vae=vae)
    model = load(path, vae=vae)
    assert (model.time_embedding, model.guided_channels, model.num_classes) == ("original", 3, 10)
    assert model.latent_shape == (4, 4, 4) and model.classifier_dir is None and model.image_size == 16
    assert load_classes(path).labels == tuple(map(str, range(10)))
    assert load(path, vae=vae, time_embedding="diffusers").time_embedding == "diffusers"
    assert load(path, vae=str(tiny_folder)).vae.config.scaling_factor == model.vae.config.scaling_factor  # a pipeline's

    # Saved as a folder it is the same network and remembers what it came from.
    save(model, tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert (again.time_embedding, again.guided_channels) == ("original", 3)
    pairs = zip(model.transformer.parameters(), again.transformer.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    with pytest.raises(UsageError, match=r"--vae .* has no effect"):
        load(tmp_path / "saved", vae=vae)


def test_the_published_size_is_recognised_from_shapes_alone(original_dit, tmp_path):
    """XL/2 by its shapes: tensors of one stored number, so that nothing large is written."""
    state = original_dit.random_state(width=1152, depth=1, num_classes=1000, grid=16)
    del state["pos_embed"]
    path = tmp_path / "DiT-XL-2-256x256.pt"
    torch.save({name: torch.zeros(1).expand(each.shape) for name, each in state.items()}, path)
    assert path.stat().st_size < 100_000
    config = transformer_config(path)
    assert (config["num_attention_heads"], config["attention_head_dim"], config["sample_size"]) == (16, 72, 32)
    assert load_classes(path).resolve("golden retriever") == 207
    with torch.device("meta"):
        transformer = DiTTransformer2DModel.from_config({**config, "num_layers": 28})
    tie_embedders(transformer, time_embedding="original", check=False)
    assert sum(each.numel() for each in transformer.parameters()) == 674_834_720


def test_a_network_that_lacks_weights_is_refused(state, write, tiny_folder):
    del state["blocks.1.mlp.fc2.bias"]
    with pytest.raises(UsageError, match=r"it lacks 1 weights and has 0 others, such as transformer_blocks.1.ff.net.2"):
        load(write(state), vae=str(tiny_folder / "vae"))
