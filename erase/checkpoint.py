"""Resumable state on disk: one safetensors file, tensors and scalars together, that appears whole or not at all."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.errors import MissingError, UsageError
from pipelines.files import replace_file

KIND = "dit-erase checkpoint 1"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State after ``step`` outer steps; the keys of ``tensors`` are ``group/name``, ``scalars`` are plain JSON."""

    step: int
    scalars: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, prefix: str, *, like: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of one group (``MissingError`` unless names and shapes are those of ``like``)."""
        found = {name: self.tensors.get(f"{prefix}/{name}") for name in like}
        for name, tensor in found.items():
            if tensor is None or tensor.shape != like[name].shape:
                raise MissingError(f"the checkpoint is of another model: no {prefix} of {name!r} in this model's shape")
        return found


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, config_hash: str) -> None:
    """Write a checkpoint so that a kill at any time leaves the old one or the new one."""
    metadata = {"config_hash": config_hash, "step": checkpoint.step, "scalars": checkpoint.scalars}
    save_tensors(path, checkpoint.tensors, kind=KIND, metadata=metadata)


def load_checkpoint(path: Path, *, config_hash: str) -> Checkpoint:
    """Read a checkpoint (``MissingError`` if unreadable or foreign, ``UsageError`` if of another configuration)."""
    tensors, metadata = load_tensors(path, kind=KIND)
    check_hash(path, metadata, config_hash=config_hash)
    return Checkpoint(step=metadata["step"], scalars=metadata["scalars"], tensors=tensors)


def checkpoint_step(path: Path, *, config_hash: str) -> int:
    """Outer steps that a resumed run starts from: those of the checkpoint, 0 without one; reads no tensor.

    A caller drops the log lines of later steps before it resumes, for the run writes them again.
    """
    if not path.exists():
        return 0
    metadata = read_metadata(path, kind=KIND)
    check_hash(path, metadata, config_hash=config_hash)
    return metadata["step"]


def check_hash(path: Path, metadata: dict[str, Any], *, config_hash: str) -> None:
    """Refuse a checkpoint that another configuration wrote."""
    if metadata["config_hash"] != config_hash:
        raise UsageError(
            f"{path} was written with configuration {metadata['config_hash']}, not {config_hash}: give the "
            "same options to resume it, or another output folder to start anew"
        )


def save_tensors(path: Path, tensors: dict[str, Tensor], *, kind: str, metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata to one safetensors file, which appears whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replace_file(path) as temporary:
        save_file(plain, temporary, metadata={"kind": kind, "metadata": json.dumps(metadata)})


def load_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote, onto the CPU (``MissingError`` unless whole and of the kind)."""
    metadata = read_metadata(path, kind=kind)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def read_metadata(path: Path, *, kind: str) -> dict[str, Any]:
    """The JSON metadata of a file that ``save_tensors`` wrote, without its tensors (``MissingError`` as above)."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise MissingError(f"{path} is no {kind}: truncated, foreign or absent ({error})") from error
    if header.get("kind") != kind:
        raise MissingError(f"{path} is no {kind}: its header says {header.get('kind', 'nothing')!r}")
    return json.loads(header["metadata"])
