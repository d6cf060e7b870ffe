"""Tensors and JSON metadata in one safetensors file of a declared kind; the digest of tensors."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import MissingError
from .files import replace_file


def save_tensors(path: Path, tensors: dict[str, Tensor], *, kind: str, metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata to one safetensors file, which appears whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replace_file(path) as temporary:
        save_file(plain, temporary, metadata={"kind": kind, "metadata": json.dumps(metadata)})


def load_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote (``MissingError`` unless whole and of the kind).

    The tensors are on the CPU and mapped from the file: memory holds what is used of them.
    """
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


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor (n,) on the CPU, for comparisons and digests: -0 and NaN are values like any other."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors with their names, types and shapes; order, device and file format play no part."""
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bits(tensor).numpy())
    return digest.hexdigest()
