"""A run as a checkpoint of the original code and as a delta: both lead back to the erased model."""

import json

import pytest
import torch

from erase.api import run
from erase.api.exporting import apply, export
from pipelines.errors import MissingError, UsageError
from pipelines.files import read_json
from pipelines.model import load, save
from pipelines.original import read_original

QUICK = {"steps": 2, "forget_batch_size": 8, "retain_batch_size": 8, "replay_per_class": 4}


@pytest.fixture
def checkpoint(original_dit, tmp_path):
    """A small checkpoint of the original layout that the tiny model's VAE fits."""
    path = tmp_path / "dit.pt"
    torch.save({"ema": original_dit.random_state(width=48, depth=2, num_classes=10, grid=2)}, path)
    path.with_suffix(".dit.json").write_text(json.dumps({"num_attention_heads": 4, "id2label": {"3": "three"}}))
    return path


@pytest.fixture
def erased(checkpoint, tiny_folder, tmp_path, erase_cache, monkeypatch):
    """A run that erased three from the checkpoint."""
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))
    options = {**QUICK, "vae": str(tiny_folder / "vae")}
    return run(
        str(checkpoint), "three", method="sfron", options={**options, "fisher_samples": 3}, protocol="none",
        output_dir=tmp_path / "run", progress=False,
    )  # fmt: skip


def same_weights(left, right):
    """Whether two models have the same bits."""
    pairs = zip(left.transformer.parameters(), right.transformer.parameters(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("name", ["erased.pt", "erased.safetensors"])
def test_the_original_code_gets_its_own_layout_back(erased, checkpoint, tiny_folder, tmp_path, name):
    path = export(erased.run_dir, tmp_path / name, form="original")
    before, after = read_original(checkpoint), read_original(path)
    assert before.keys() == after.keys()
    assert all(before[key].shape == after[key].shape for key in before)
    again = load(path, vae=str(tiny_folder / "vae"))
    assert same_weights(again, erased.model) and again.classes.labels == erased.model.classes.labels
    assert again.time_embedding == "original" and again.guided_channels == 3


def test_a_delta_on_its_base_is_the_erased_model(erased, checkpoint, tmp_path):
    path = export(erased.run_dir, tmp_path / "delta.safetensors", form="delta")
    folder = apply(path, tmp_path / "rebuilt", base=str(checkpoint))
    assert same_weights(load(folder), erased.model)
    for part in ("transformer/config.json", "model_index.json", "scheduler/scheduler_config.json"):
        assert read_json(folder / part) == read_json(erased.run_dir / "model" / part)
    with pytest.raises(UsageError, match="is a file or not empty"):
        apply(path, tmp_path / "rebuilt")


def test_what_cannot_be_exported_is_refused_before_anything_is_written(erased, tiny_folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"--output .*x.bin must end in .pt or .safetensors"):
        export(erased.run_dir, tmp_path / "x.bin", form="original")
    with pytest.raises(UsageError, match=r"--output .*x.pt must end in .safetensors for --format delta"):
        export(erased.run_dir, tmp_path / "x.pt", form="delta")
    with pytest.raises(UsageError, match="lies in a folder that does not exist"):
        export(erased.run_dir, tmp_path / "no" / "x.pt", form="original")
    plain = run(
        str(tiny_folder), "three", method="embedding_reset", protocol="none", output_dir=tmp_path / "plain",
        progress=False,
    )  # fmt: skip
    with pytest.raises(UsageError, match="erase with --time-embedding original"):
        export(plain.run_dir, tmp_path / "x.pt", form="original")
    assert not (tmp_path / "x.pt").exists()


def test_a_delta_travels_without_its_makers_folders_but_not_to_another_use_of_the_weights(
    erased, checkpoint, tiny_folder, tmp_path
):
    path = export(erased.run_dir, tmp_path / "delta.safetensors", form="delta")
    moved = tmp_path / "elsewhere"
    save(load(checkpoint, vae=str(tiny_folder / "vae")), moved)
    assert same_weights(load(apply(path, tmp_path / "rebuilt", base=str(moved))), erased.model)

    # The same weights with diffusers' time embedding are another network.
    save(load(checkpoint, vae=str(tiny_folder / "vae"), time_embedding="diffusers"), tmp_path / "unlike")
    with pytest.raises(UsageError, match=r"made from a base with .*original.*, .*unlike has .*diffusers"):
        apply(path, tmp_path / "no", base=str(tmp_path / "unlike"))
    assert not (tmp_path / "no").exists()


def test_an_unfinished_run_is_not_looked_for_on_the_hub(erased, tmp_path, monkeypatch):
    (erased.run_dir / "model").rename(tmp_path / "away")
    with pytest.raises(MissingError, match="is not finished: repeat its command"):
        export(erased.run_dir, tmp_path / "x.pt", form="original")
