"""Files that appear whole or not at all, and weight files that are checked before they are read."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import MissingError, UsageError


def check_output(path: Path, *, suffixes: Sequence[str] = (), reason: str = "") -> None:
    """Refuse a file that could not be written in the end (``UsageError``); ``reason`` says what asks for a suffix."""
    if suffixes and path.suffix not in suffixes:
        raise UsageError(f"--output {path} must end in {' or '.join(suffixes)}{reason}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--output {path} lies in a folder that does not exist")
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder; name a file")


def write_json(value: Any, path: Path) -> None:
    """Write JSON through a temporary file and a rename."""
    write_text(json.dumps(value, indent=2) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write text through a temporary file and a rename."""
    with replace_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; the file written there takes its place when the block ends without an error.

    The file reaches the disk before its name does, and the name before the block is left. Two processes do not meet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.chmod(0o666 & ~current_umask())  # safetensors writes files that only their owner can read
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def current_umask() -> int:
    """The permissions that new files do not get; it can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Read JSON; ``MissingError`` names a file that is absent or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MissingError(f"{path} is not JSON: {error}") from error


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~current_umask())
        # The old folder steps aside first: at every moment one of the two is whole.
        retired = temporary.with_name(temporary.name + ".old")
        if folder.exists():
            folder.replace(retired)
        temporary.replace(folder)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_weights(folder: Path) -> None:
    """Hold a component folder to having readable weights (``MissingError`` names the file and what is wrong)."""
    files = sorted(folder.glob("*.safetensors"))
    if not files and not sorted(folder.glob("*.bin")):
        raise MissingError(f"{folder} has no weights (*.safetensors)")
    for path in files:
        check_safetensors(path)


def check_safetensors(path: Path) -> None:
    """Read the header of one safetensors file; an absent or truncated file or a pickle raises ``MissingError``.

    A valid file may begin like a pickle or a zip (its first bytes are a length), so these only name what is wrong.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        if starts_as_pickle(path):
            raise MissingError(f"{path} is a pickle, not safetensors: it was not opened") from error
        raise MissingError(f"{path} is not a complete safetensors file: {error}") from error


def is_safetensors(path: Path) -> bool:
    """Whether a file is there and whole; a cache makes it again where it is not."""
    try:
        check_safetensors(path)
    except MissingError:
        return False
    return True


def starts_as_pickle(path: Path) -> bool:
    """Whether a file has the first bytes of a pickle or of torch's zip of pickles."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        start = stream.read(2)
    return start[:1] == b"\x80" or start == b"PK"
