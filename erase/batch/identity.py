"""What a model is, by the bytes of its files: shards of a model that has changed are not taken for its own."""

import hashlib
import json
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import MissingError
from pipelines.files import write_text
from pipelines.identity import file_digest
from pipelines.model_source import original_path, resolve_folder, vae_dir

from ..rundir import cache_dir

Found = TypeVar("Found")
COUNTED = (".safetensors", ".bin", ".json")  # weights and settings; a card says nothing about the images
LARGE = 2**26  # bytes; a smaller file is read faster than looked up


def short_hash(facts: Any) -> str:
    """Sixteen hex digits of plain JSON types."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def model_identity(source: str, *, vae: str = "") -> str:
    """Sixteen hex digits of the model and of its VAE (``MissingError`` for one that is not there)."""
    path = original_path(source)
    if path is None:
        return folder_identity(resolve_folder(source, weights=True))
    return short_hash([file_identity(path), folder_identity(vae_dir(source, vae, weights=True))])


def folder_identity(folder: Path) -> str:
    """Of the names and contents of all files that decide what a model draws."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in COUNTED and path.is_file())
    return short_hash([(path.relative_to(folder).as_posix(), file_identity(path)) for path in files])


def while_unchanged(*, absent: Found) -> Callable[[Callable[[Path], Found]], Callable[[Path], Found]]:
    """Decorator: a file is read once as long as its size and time stay; ``absent`` where there is none."""

    def decorate(read: Callable[[Path], Found]) -> Callable[[Path], Found]:
        @cache
        def read_as_of(path: Path, size: int, changed: int) -> Found:
            return read(path)

        @wraps(read)
        def found(path: Path) -> Found:
            try:
                stat = path.stat()
            except FileNotFoundError:
                return absent
            return read_as_of(path, stat.st_size, stat.st_mtime_ns)

        return found

    return decorate


def file_identity(path: Path) -> str:
    """The sha256 of a file, read once as long as its size and time stay (``MissingError``)."""
    try:
        stat = path.stat()
    except OSError as error:
        raise MissingError(f"{path} cannot be read: {error.strerror}") from error
    return read_identity(path, stat.st_size, stat.st_mtime_ns)


@cache
def read_identity(path: Path, size: int, changed: int) -> str:
    """The sha256 of a file of this size that was changed at this time; that of a large one is kept in the cache."""
    noted = cache_dir() / "digests" / short_hash([str(path.resolve()), size, changed])
    if size >= LARGE and noted.is_file():
        return noted.read_text()
    digest = file_digest(path)
    if size >= LARGE:
        write_text(digest, noted)
    return digest
