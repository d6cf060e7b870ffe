"""Files by name from a folder, a zip or an uncompressed tar; an archive is read in place, nothing is extracted."""

import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import MissingError, UsageError

ACCEPTED = "an image folder with one folder per class, a zip or an uncompressed tar of one, or a save_to_disk folder"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
READ_ERRORS = (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
Listing = tuple[list[str], list[str]]  # names of the folders and of the files directly in a folder


class Store(ABC):
    """Named files; names use forward slashes and are relative to the root. Instances can be pickled and shared."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def listing(self, folder: str) -> Listing:
        """What lies directly in a folder, sorted; the root is ``""``."""

    @abstractmethod
    def files(self, folder: str) -> Iterator[tuple[str, int | None]]:
        """Full name and size in bytes of every file at any depth in a folder; no size for what is not a file."""

    @abstractmethod
    def read(self, name: str, *, limit: int = -1) -> bytes:
        """The first ``limit`` bytes of a file, or all; raises one of ``READ_ERRORS``."""


class FolderStore(Store):
    """A folder on disk; links are followed, a folder that contains itself through a link is entered once."""

    def listing(self, folder: str) -> Listing:
        with os.scandir(self.path / folder) as scan:
            entries = sorted((entry.name, entry.is_dir()) for entry in scan)
        return [name for name, is_dir in entries if is_dir], [name for name, is_dir in entries if not is_dir]

    def files(self, folder: str) -> Iterator[tuple[str, int | None]]:
        return self._walk(folder, seen=set())

    def _walk(self, folder: str, *, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int | None]]:
        status = os.stat(self.path / folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(self.path / folder) as scan:
            for entry in scan:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    yield from self._walk(name, seen=seen)
                else:
                    yield name, entry.stat().st_size if entry.is_file() else None

    def read(self, name: str, *, limit: int = -1) -> bytes:
        with (self.path / name).open("rb", buffering=0 if limit >= 0 else -1) as stream:
            return stream.read(limit)


class ArchiveStore(Store):
    """What zip and tar share: a tree of folders built from the names of the members."""

    def __init__(self, path: Path, sizes: Iterable[tuple[str, int | None]]) -> None:
        super().__init__(path)
        self.sizes = dict(sizes)
        self.tree: dict[str, tuple[set[str], list[str]]] = {"": (set(), [])}
        for name in self.sizes:
            folder, _, file = name.rpartition("/")
            self._folder(folder)[1].append(file)

    def _folder(self, name: str) -> tuple[set[str], list[str]]:
        if name not in self.tree:
            self.tree[name] = (set(), [])
            parent, _, own = name.rpartition("/")
            self._folder(parent)[0].add(own)
        return self.tree[name]

    def listing(self, folder: str) -> Listing:
        folders, files = self.tree[folder]
        return sorted(folders), sorted(files)

    def files(self, folder: str) -> Iterator[tuple[str, int | None]]:
        start = f"{folder}/" if folder else ""
        folders, files = self.tree[folder]
        for file in files:
            yield start + file, self.sizes[start + file]
        for own in folders:
            yield from self.files(start + own)


class ZipStore(ArchiveStore):
    """A zip file; each process opens its own handle when it first reads."""

    def __init__(self, path: Path) -> None:
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
        self.members = {member_name(member.filename): member.filename for member in members}
        super().__init__(path, ((member_name(member.filename), member.file_size) for member in members))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_handle": None}

    def _archive(self) -> zipfile.ZipFile:
        """This process's handle: one inherited through a fork would share its position with the parent's."""
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), zipfile.ZipFile(self.path))
        return self._handle[1]

    def read(self, name: str, *, limit: int = -1) -> bytes:
        with self._archive().open(self.members[name]) as stream:
            return stream.read(limit)


class TarStore(ArchiveStore):
    """An uncompressed tar; a read is a seek to the member's offset, without a handle that is kept."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path, "r:") as archive:
            members = {member_name(member.name): member for member in archive if not member.isdir()}
        self.offsets = {name: member.offset_data for name, member in members.items()}
        plain = {name for name, member in members.items() if member.isreg() and not member.issparse()}
        super().__init__(path, ((name, member.size if name in plain else None) for name, member in members.items()))

    def read(self, name: str, *, limit: int = -1) -> bytes:
        size = self.sizes[name]
        assert size is not None
        with self.path.open("rb") as stream:
            stream.seek(self.offsets[name])
            return stream.read(size if limit < 0 else min(limit, size))


def member_name(name: str) -> str:
    """A member's name without a leading ``./`` or ``/``."""
    return name.removeprefix("./").lstrip("/")


def open_store(source: str | Path, *, flag: str) -> Store:
    """The files of a folder, a zip or a tar, told apart by content.

    Raises ``MissingError`` when it is not there or damaged, ``UsageError`` when it is something else.
    """
    if not str(source):
        raise UsageError(f"{flag} is empty; give {ACCEPTED}")
    path = Path(source).expanduser()
    if not path.exists():
        raise MissingError(f"{flag} {source} does not exist; give {ACCEPTED}")
    if path.is_dir():
        return FolderStore(path)
    try:
        return open_archive(path, flag=flag)
    except (*READ_ERRORS, tarfile.TarError) as error:
        if isinstance(error, MissingError):
            raise
        raise MissingError(f"{flag} {source} cannot be read as an archive: {error}") from error


def open_archive(path: Path, *, flag: str) -> Store:
    """The files of a zip or a tar (``UsageError`` for any other file)."""
    if zipfile.is_zipfile(path):
        return ZipStore(path)
    with path.open("rb") as stream:
        start = stream.read(6)
    for magic, name in COMPRESSED.items():
        if start.startswith(magic):
            raise UsageError(f"{flag} {path} is compressed with {name}, so it cannot be read in place; give {ACCEPTED}")
    if not tarfile.is_tarfile(path):
        raise UsageError(f"{flag} {path} is neither a folder nor an archive; give {ACCEPTED}")
    return TarStore(path)
