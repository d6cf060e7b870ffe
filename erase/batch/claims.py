"""Who works on what: a claim is a file that only one process can create, and lasts as long as its owner gives signs.

A claim only keeps two workers from doing the same work; where both do it all the same, the later rename puts the same
content in the place of the earlier. So nothing is ever locked, and a lost worker costs what it had not finished.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

BEAT = 5.0  # seconds between two signs of life
LEASE = 60.0  # seconds without one after which a worker counts as lost


class Worker:
    """One process that works, known by a file that it touches."""

    def __init__(self, folder: Path, *, host: str = "") -> None:
        self.folder = folder
        self.host = host or platform.node()
        self.name = f"{self.host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.path = folder / self.name

    @contextlib.contextmanager
    def alive(self) -> Iterator["Worker"]:
        """Signs of life from a thread while the block runs."""
        self.path.touch()
        stop = threading.Event()
        thread = threading.Thread(target=self.beat, args=(stop,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            self.path.unlink(missing_ok=True)

    def beat(self, stop: threading.Event) -> None:
        """Touch the file until told to stop; a folder that is away for a moment is tried again."""
        while not stop.wait(BEAT):
            try:
                self.path.touch()
            except OSError:
                continue

    def now(self) -> float:
        """The time of the file system, whose clock all workers share."""
        self.path.touch()
        return self.path.stat().st_mtime

    def claim(self, path: Path) -> bool:
        """Whether this worker now holds the claim; that of a lost worker is taken over."""
        if path.exists() and not is_live(path, self.folder, now=self.now(), host=self.host):
            path.unlink(missing_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as stream:
            json.dump({"worker": self.name, "host": self.host, "pid": os.getpid()}, stream)
        return True


def is_live(path: Path, workers: Path, *, now: float, host: str) -> bool:
    """Whether a claim is held by a worker that still gives signs of life."""
    try:
        try:
            owner = json.loads(path.read_text())
        except json.JSONDecodeError:  # it is being written at this moment, unless its writer was lost right then
            return now - path.stat().st_mtime < LEASE
        fresh = now - (workers / owner["worker"]).stat().st_mtime < LEASE
    except FileNotFoundError:
        return False
    return fresh and (owner["host"] != host or is_running(owner["pid"]))


def is_running(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ages(workers: Path) -> dict[Path, float]:
    """Seconds since each worker gave its last sign of life."""
    found = {}
    for path in workers.iterdir() if workers.exists() else ():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            found[path] = time.time() - path.stat().st_mtime
    return found


def num_alive(workers: Path) -> int:
    """How many workers have given a sign of life lately."""
    return sum(seconds < LEASE for seconds in ages(workers).values())


def forget_lost(workers: Path) -> None:
    """Take away the files of workers that were lost."""
    for path, seconds in ages(workers).items():
        if seconds > LEASE:
            path.unlink(missing_ok=True)
