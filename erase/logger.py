"""The contract of a logger: one file in ``erase/loggers``, found by its file name; it keeps a copy of a run's log."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.errors import UsageError
from pipelines.modules import class_of, file_names

from . import loggers

FLAG = "--log-to"
PROJECT = "dit-erase"  # under which a tool that sorts its runs by project shows them


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What a logger is told of a run when it opens its log, for the first time or again."""

    id: str  # the same each time
    name: str
    folder: Path  # for what the loggers of this run keep on disk
    config: Mapping[str, Any]
    after: int  # the last step that the log is to keep; -1 before the first one


class Logger(ABC):
    """One open log. Whatever it raises ends the copying, never the run."""

    rewinds: ClassVar[bool] = False  # whether it forgets what it was given after ``LoggedRun.after``

    @classmethod  # noqa: B027
    def check(cls) -> None:
        """Refuse what would keep every run from being logged (``UsageError``); asks the user where it must."""

    @abstractmethod
    def __init__(self, run: LoggedRun) -> None:
        """Open the log of a run, or go on with it."""

    def last_step(self) -> int | None:
        """The last step that the log held when it was opened, -1 for none; None where it cannot tell."""
        return None

    @abstractmethod
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take in numbers after so many outer steps, readings or final scores."""

    @abstractmethod
    def preview(self, step: int, path: Path) -> None:
        """Take in the picture that was drawn after so many outer steps."""

    @abstractmethod
    def close(self) -> None:
        """End the log of this process."""


def logger_names() -> list[str]:
    """Names of all loggers: the files of ``erase/loggers``."""
    return file_names(loggers)


def logger_class(name: str) -> type[Logger]:
    """The class that a logger's file defines (``UsageError`` lists the loggers)."""
    return class_of(loggers, name, Logger, flag=FLAG)


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are not there or could not log, before anything expensive (``UsageError``)."""
    if isinstance(names, str):
        raise UsageError(f"log_to={names!r} is one string: give a tuple of loggers, ({names!r},)")
    kinds = {name: logger_class(name) for name in names}
    if len(kinds) < len(names):
        raise UsageError(f"{FLAG} {' '.join(names)} names a logger twice")
    for name, kind in kinds.items():
        check_package(name)
        kind.check()


def check_package(name: str) -> None:
    """Refuse a logger whose package cannot be imported (``UsageError`` says how to install it)."""
    reason = ""
    try:
        found = importlib.import_module(name).__file__  # None for a folder of that name which is no package
    except ImportError as error:
        found, reason = None, f" ({error})"
    if found is None:
        raise UsageError(f"{FLAG} {name} needs an extra: pip install 'dit-erase[{name}]'{reason}")
