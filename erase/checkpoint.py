"""Resumable state on disk: one safetensors file, tensors and scalars together, that appears whole or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.errors import MissingError, UsageError
from pipelines.tensor_file import load_tensors, read_metadata, save_tensors

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
