"""Folders that are refused: damaged weights, pickles, other networks, sources that are no model."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.errors import MissingError, UsageError
from pipelines.model import DiT, load
from pipelines.model_source import check_model

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_a_pickle_is_not_opened(folder: Path, tmp_path: Path) -> None:
    """Neither under the name of a safetensors file nor as diffusers' ``.bin``."""
    witness = tmp_path / "opened"
    payload = f"cbuiltins\nopen\n(S'{witness}'\nS'w'\ntR.".encode()
    (folder / WEIGHTS).write_bytes(b"\x80\x02" + payload)
    with pytest.raises(MissingError, match="pickle"):
        load(folder)
    (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(MissingError, match="cannot be loaded"):
        load(folder)
    assert not witness.exists()


def test_weights_in_the_older_bin_format(tiny: DiT, folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), (folder / WEIGHTS).with_suffix(".bin"))
    (folder / WEIGHTS).unlink()
    assert torch.equal(load(folder).transformer.proj_out_2.weight, tiny.transformer.proj_out_2.weight)


def damage_nothing_left(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def damage_truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def damage_empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def damage_other_name(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "transformer" / "other.safetensors")


def damage_tensor_missing(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state.pop("transformer_blocks.1.attn1.to_q.weight")
    save_file(state, folder / WEIGHTS)


def damage_tensor_shape(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"proj_out_2.bias": torch.zeros(3)}, folder / WEIGHTS)


def damage_torch_archive(folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save({}, buffer)
    (folder / WEIGHTS).write_bytes(buffer.getvalue())


def damage_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def damage_config(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text("{ not json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing_left, "transformer has no weights"),
        (damage_truncated, "not a complete safetensors file"),
        (damage_empty, "not a complete safetensors file"),
        (damage_other_name, "transformer cannot be loaded"),
        (damage_tensor_missing, r"lack 1 tensors.*attn1\.to_q"),
        (damage_tensor_shape, "proj_out_2.bias"),
        (damage_torch_archive, "is a pickle"),
        (damage_vae, "vae has no weights"),
        (damage_config, "config.json is not JSON"),
    ],
)
def test_damaged_folders_are_missing(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(MissingError, match=message):
        load(folder)


@pytest.mark.parametrize("damage", [damage_nothing_left, damage_truncated, damage_vae, damage_config])
def test_damage_shows_before_weights_are_read(folder: Path, damage: Callable[[Path], None]) -> None:
    check_model(folder)
    damage(folder)
    with pytest.raises(MissingError):
        check_model(folder)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("transformer/config.json", {"out_channels": 4}, "learned variance"),
        ("transformer/config.json", {"norm_type": "ada_norm_single"}, "ada_norm_zero"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "scaled_linear"}, "scaled_linear"),
    ],
)
def test_other_networks_are_refused(folder: Path, file: str, values: dict, message: str) -> None:
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))
    with pytest.raises(UsageError, match=message):
        load(folder)


def test_a_hub_id_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="--model nobody/nothing is no local folder, and the hub cannot be reached"):
        load("nobody/nothing")


@pytest.mark.parametrize("source", ["no/such/folder/here", "/no/such", "nothing", "."])
def test_sources_that_are_no_model(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match=r"neither an embedded model|not a model folder"):
        load(source)
