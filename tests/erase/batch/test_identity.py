"""What a model is: the bytes of its weights and settings, read once."""

import os
import shutil

import pytest

from erase.batch import identity
from erase.batch.identity import file_identity, model_identity, read_identity
from pipelines.errors import MissingError


@pytest.fixture
def copied(tiny_folder, tmp_path):
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_a_copy_is_the_same_model_until_a_byte_of_it_changes(tiny_folder, copied):
    same = model_identity(str(tiny_folder))
    assert model_identity(str(copied)) == same
    (copied / "README.md").write_text("another card")
    assert model_identity(str(copied)) == same
    weights = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_identity(str(copied)) != same
    with pytest.raises(MissingError):
        model_identity(str(copied / "nowhere" / "near"))


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "LARGE", 4)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"12345")
    digest = file_identity(path)
    (noted,) = (tmp_path / "cache" / "digests").iterdir()
    assert noted.read_text() == digest
    noted.write_text("as noted")
    read_identity.cache_clear()
    assert file_identity(path) == "as noted"
    os.utime(path, ns=(1, 1))
    assert file_identity(path) == digest
