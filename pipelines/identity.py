"""Which model exactly: the revision of a source and the digests of weight files, as anyone can check them."""

import hashlib
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from .model_source import CARD_FILE, EMBEDDED, WEIGHT_FILES, original_path, resolve_folder


def weight_digests(folder: Path) -> dict[str, str]:
    """The sha256 of every weight file below a folder by its path there, as ``sha256sum`` prints it."""
    paths = sorted(path for pattern in WEIGHT_FILES for path in folder.rglob(pattern))
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}


def file_digest(path: Path) -> str:
    """The sha256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def revision_of(source: str | Path) -> dict[str, Any]:
    """The ``commit`` of a hub model, else the ``sha256`` of each file of the transformer's weights."""
    if (path := original_path(source)) is not None:
        return {"sha256": {path.name: file_digest(path)}}
    folder = resolve_folder(source)
    if str(source) not in EMBEDDED and not Path(source).exists():
        return {"commit": folder.name}  # the hub's cache names each snapshot after its commit
    digests = weight_digests(folder / "transformer")
    return {"sha256": {f"transformer/{name}": digest for name, digest in digests.items()}}


def stated_licence(source: str | Path) -> str:
    """The licence in the metadata of a model's card; empty where none is stated."""
    if original_path(source) is not None:
        return ""
    card = resolve_folder(source) / CARD_FILE
    try:
        stated = metadata_load(card) if card.exists() else None
    except (ValueError, yaml.YAMLError):
        return ""
    return str((stated or {}).get("license", ""))
