"""Tensors and JSON metadata in one safetensors file of a declared kind."""

import json
from pathlib import Path
from typing import Any

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
