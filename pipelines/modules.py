"""Files of a package and what they define, found by name: methods, metrics, probes, loggers."""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from .errors import UsageError

Kind = TypeVar("Kind")


def file_names(package: ModuleType) -> list[str]:
    """The names that the files of a package give, in order."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def module_of(package: ModuleType, name: str, *, flag: str) -> ModuleType:
    """The package's file of this name (``UsageError`` lists the names)."""
    names = file_names(package)
    if name not in names:
        raise UsageError(f"{flag} {name!r} is not one of {', '.join(names)}")
    return importlib.import_module(f"{package.__name__}.{name}")


def class_of(package: ModuleType, name: str, kind: type[Kind], *, flag: str) -> type[Kind]:
    """The subclass of ``kind`` that the package's file of this name defines (``UsageError`` lists the names)."""
    module = module_of(package, name, flag=flag)
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    )
