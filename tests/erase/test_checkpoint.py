"""Checkpoints on disk: whole, of this configuration, or refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erase.checkpoint import Checkpoint, checkpoint_step, load_checkpoint, save_checkpoint
from pipelines.errors import MissingError, UsageError


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a transposed weight and odd scalars, and its path."""
    checkpoint = Checkpoint(
        step=7,
        scalars={"probe_start": 0.1 + 0.2, "best": None, "checks": [{"step": 5, "forget_accuracy": 1 / 3}]},
        tensors={"weights/w": torch.randn(3, 4).T, "forget.step/w": torch.tensor(7.0)},
    )
    path = tmp_path / "checkpoint" / "state.safetensors"
    save_checkpoint(path, checkpoint, config_hash="abc")
    return path, checkpoint


def test_round_trip_is_exact(saved):
    path, checkpoint = saved
    loaded = load_checkpoint(path, config_hash="abc")
    assert (loaded.step, loaded.scalars) == (7, checkpoint.scalars)
    assert loaded.tensors.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], each) for name, each in checkpoint.tensors.items())
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_step_is_known_without_reading_tensors(saved):
    path, _ = saved
    assert checkpoint_step(path, config_hash="abc") == 7
    assert checkpoint_step(path.with_name("none"), config_hash="abc") == 0


def test_another_configuration_is_refused(saved):
    path, _ = saved
    for read in (load_checkpoint, checkpoint_step):
        with pytest.raises(UsageError, match="abc, not abd"):
            read(path, config_hash="abd")


def test_a_truncated_file_is_refused(saved):
    path, _ = saved
    whole = path.read_bytes()
    for length in (0, 1, 8, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(MissingError, match="truncated"):
            load_checkpoint(path, config_hash="abc")


def test_foreign_files_are_refused(saved):
    path, _ = saved
    path.write_bytes(b"PK\x03\x04 a zip file, or a pickle" * 20)
    with pytest.raises(MissingError, match="foreign"):
        load_checkpoint(path, config_hash="abc")
    for metadata in (None, {"kind": "something else"}):
        save_file({"w": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(MissingError, match="header says"):
            load_checkpoint(path, config_hash="abc")
    with pytest.raises(MissingError, match="absent"):
        load_checkpoint(path.with_name("none"), config_hash="abc")


def test_another_model_is_refused(saved):
    checkpoint = load_checkpoint(saved[0], config_hash="abc")
    assert checkpoint.group("weights", like={"w": torch.zeros(4, 3)})["w"].shape == (4, 3)
    for like in ({"w": torch.zeros(3, 4)}, {"v": torch.zeros(4, 3)}):
        with pytest.raises(MissingError, match="another model"):
            checkpoint.group("weights", like=like)


def test_a_write_that_dies_leaves_the_last_checkpoint(saved, monkeypatch):
    path, checkpoint = saved

    def die(*_):
        raise KeyboardInterrupt

    later = Checkpoint(step=8, scalars={}, tensors=checkpoint.tensors)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", die)
        save_checkpoint(path, later, config_hash="abc")
    assert load_checkpoint(path, config_hash="abc").step == 7
    save_checkpoint(path, later, config_hash="abc")
    assert load_checkpoint(path, config_hash="abc").step == 8
    assert [each.name for each in path.parent.iterdir()] == [path.name]
