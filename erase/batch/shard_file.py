"""The file of a shard: the metric states of its blocks, with a checksum over everything, whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from eval.blocks import State
from pipelines.errors import MissingError
from pipelines.tensor_file import load_tensors, save_tensors, tensors_sha256

from .identity import short_hash, while_unchanged

KIND = "dit-erase shard 1"
IMAGES = "images"  # in the place of a block's number


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What some blocks of one model's images say."""

    blocks: dict[int, State]  # by the block's number
    facts: dict[str, Any]  # how it was made, in plain JSON types
    images: Tensor | None = None  # (N, 3, H, W) uint8, those that are kept: their places are in the facts
    checksum: str = field(default="")


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard under a temporary name and rename it; tensors that several metrics share are written once."""
    tensors, same = {}, {}
    for number, state in shard.blocks.items():
        for key, tensor in state.items():
            name = f"{number}/{key}"
            twin = next(
                (each for each in tensors if each.startswith(f"{number}/") and alike(tensors[each], tensor)), ""
            )
            if twin:
                same[name] = twin
            else:
                tensors[name] = tensor
    if shard.images is not None:
        tensors[IMAGES] = shard.images
    content = {"facts": shard.facts, "same": same}
    save_tensors(path, tensors, kind=KIND, metadata={**content, "checksum": checksum_of(tensors, content)})


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in type, shape and value."""
    return a.dtype == b.dtype and torch.equal(a, b)


def checksum_of(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> str:
    """Of the tensors with their names, and of everything that is said about them."""
    return short_hash([tensors_sha256(tensors), content])


def read_shard(path: Path) -> Shard:
    """A shard that is whole (``MissingError`` where it is absent, truncated, foreign or its checksum differs)."""
    try:
        tensors, metadata = load_tensors(path, kind=KIND)
        content = {"facts": metadata["facts"], "same": metadata["same"]}
        intact = checksum_of(tensors, content) == metadata["checksum"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise MissingError(f"{path} is no shard: {error}") from error
    if not intact:
        raise MissingError(f"{path} is damaged: its checksum is not that of its content")
    images = tensors.pop(IMAGES, None)
    blocks: dict[int, State] = {}
    for name, held in {**{name: name for name in tensors}, **content["same"]}.items():
        number, _, key = name.partition("/")
        blocks.setdefault(int(number), {})[key] = tensors[held]
    return Shard(blocks=blocks, facts=content["facts"], images=images, checksum=metadata["checksum"])


@while_unchanged(absent=None)
def whole_shard(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Checksum and facts of a shard that is there and whole; else None."""
    try:
        shard = read_shard(path)
    except MissingError:
        return None
    return shard.checksum, shard.facts
