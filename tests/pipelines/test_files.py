"""Files that appear whole or not at all, and weight files that are held to their format."""

import io
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.errors import MissingError, UsageError
from pipelines.files import (
    check_output,
    check_safetensors,
    check_weights,
    read_json,
    replace_file,
    replace_folder,
    write_json,
)


class TouchOnLoad:
    """An object whose pickle creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "ü": "é"}
    write_json({"old": 1}, tmp_path / "file.json")
    write_json(value, tmp_path / "file.json")
    assert read_json(tmp_path / "file.json") == value
    assert list(contents(tmp_path)) == ["file.json"]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json({"old": 1}, tmp_path / "file.json")
    with pytest.raises(TypeError):
        write_json({"new": object()}, tmp_path / "file.json")
    assert read_json(tmp_path / "file.json") == {"old": 1}
    assert list(contents(tmp_path)) == ["file.json"]


@pytest.mark.parametrize("data", [b"", b"{ not json", b"\xff\xfe\x00"])
def test_unreadable_json_is_missing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(MissingError, match=r"file\.json is not JSON"):
        read_json(tmp_path / "file.json")


def test_absent_json_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"file\.json does not exist"):
        read_json(tmp_path / "file.json")


def test_an_output_that_could_not_be_written_is_refused(tmp_path: Path) -> None:
    check_output(tmp_path / "a.png", suffixes=(".png", ".npz"))
    check_output(tmp_path / "anything")
    (tmp_path / "folder.png").mkdir()
    for name, match in (
        ("a.jpg", r"--output .*a\.jpg must end in \.png or \.npz for --format x$"),
        ("no/a.png", r"--output .*a\.png lies in a folder that does not exist"),
        ("folder.png", r"--output .*folder\.png is a folder; name a file"),
    ):
        with pytest.raises(UsageError, match=match):
            check_output(tmp_path / name, suffixes=(".png", ".npz"), reason=" for --format x")


def test_replace_folder_replaces_everything(tmp_path: Path) -> None:
    """Parents are made, old files go, nothing temporary stays, and others may read the result."""
    folder = tmp_path / "deep" / "model"
    for name in ("first", "second"):
        with replace_folder(folder) as target:
            (target / name).write_text(name)
            assert target != folder and (folder / "first").exists() == (name == "second")
            inode = target.stat().st_ino
        assert folder.stat().st_ino == inode  # renamed, not copied
    assert contents(tmp_path) == {"deep/model/second": b"second"}
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_replace_folder_interrupted_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(error), replace_folder(folder) as target:
        (target / "half").write_text("half")
        raise error
    assert contents(tmp_path) == {"model/old": b"old"}
    assert os.listdir(tmp_path) == ["model"]


def test_replace_folder_interrupted_leaves_nothing_new(tmp_path: Path) -> None:
    with pytest.raises(ValueError), replace_folder(tmp_path / "model") as target:
        (target / "half").write_text("half")
        raise ValueError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 100, 400])
def test_truncated_safetensors_are_missing(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(80), "b": torch.ones(20)}, path)
    check_safetensors(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(MissingError, match="not a complete safetensors file"):
        check_safetensors(path)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickles_are_refused_and_not_executed(tmp_path: Path, kind: str) -> None:
    """The same bytes do run when they are opened as a pickle, so the test would notice."""
    witness, path = tmp_path / "executed", tmp_path / "weights.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(TouchOnLoad(witness)))
    else:
        buffer = io.BytesIO()
        torch.save(TouchOnLoad(witness), buffer)
        path.write_bytes(buffer.getvalue())
    with pytest.raises(MissingError, match="is a pickle, not safetensors: it was not opened"):
        check_weights(tmp_path)
    assert not witness.exists()
    data = io.BytesIO(path.read_bytes())
    torch.load(data, weights_only=False) if kind == "torch" else pickle.load(data)
    assert witness.exists()


@pytest.mark.parametrize(("start", "length"), [(b"\x80", 128), (b"PK", 0x4B50)])
def test_valid_safetensors_that_begin_like_a_pickle(tmp_path: Path, start: bytes, length: int) -> None:
    """The first bytes are the header's length: one file in 32 begins with a pickle's first byte."""
    entry = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + entry.ljust(length) + struct.pack("<2f", 1.5, -2.0))
    assert path.read_bytes().startswith(start) and load_file(path)["a"].tolist() == [1.5, -2.0]
    check_safetensors(path)


def test_weights_of_a_folder(tmp_path: Path) -> None:
    """At least one file, and every shard is looked at; ``.bin`` is left to diffusers."""
    with pytest.raises(MissingError, match="has no weights"):
        check_weights(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    check_weights(tmp_path)
    (tmp_path / "two.safetensors").write_bytes(b"")
    with pytest.raises(MissingError, match=r"two\.safetensors"):
        check_weights(tmp_path)


def test_bin_weights_are_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.bin")
    check_weights(tmp_path)


def test_absent_safetensors_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nothing\.safetensors"):
        check_safetensors(tmp_path / "nothing.safetensors")


def test_files_get_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    """safetensors makes files that only their owner can read, which a shared cache or model folder cannot be."""
    (tmp_path / "plain").touch()
    with replace_file(tmp_path / "one") as temporary:
        temporary.touch(0o600)
    with replace_folder(tmp_path / "folder") as temporary:
        (temporary / "part").mkdir(0o700)
        (temporary / "part" / "weights").touch(0o600)
    plain = (tmp_path / "plain").stat().st_mode & 0o777
    assert (tmp_path / "one").stat().st_mode & 0o777 == plain
    assert (tmp_path / "folder" / "part" / "weights").stat().st_mode & 0o777 == plain
    assert (tmp_path / "folder" / "part").stat().st_mode & 0o055 == (tmp_path / "folder").stat().st_mode & 0o055


def test_a_file_that_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replace_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
