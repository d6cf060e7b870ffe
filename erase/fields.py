"""Fields of configuration dataclasses: their line of help, and the checks that hold them to their types and ranges."""

import math
from dataclasses import field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipelines.errors import UsageError


def option(default: Any, help: str) -> Any:
    """A dataclass field with its one line of help."""
    return field(default=default, metadata={"help": help})


def check_literals(config: Any) -> None:
    """Hold every ``Literal`` field of a dataclass to its choices (``UsageError`` otherwise)."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise UsageError(
                f"{flag(name)} {getattr(config, name)!r} is not one of {', '.join(map(str, get_args(hint)))}"
            )


def check_types(config: Any) -> None:
    """Hold numeric fields to numbers (``UsageError``): YAML reads ``2e-4`` as text, and half a step does not exist."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if hint is int and not whole:
            raise UsageError(f"{flag(name)} {value!r} is not a whole number")
        if hint is float and not (whole or isinstance(value, float)):
            raise UsageError(f"{flag(name)} {value!r} is not a number (YAML needs 2.0e-4, not 2e-4)")
        if hint is bool and not isinstance(value, bool):
            raise UsageError(f"{flag(name)} {value!r} is not true or false")


def check_at_least(config: Any, name: str, least: float) -> None:
    """Hold a numeric field to its lower bound (``UsageError`` otherwise); NaN and infinity are refused too."""
    value = getattr(config, name)
    if not least <= value < math.inf:
        raise UsageError(f"{flag(name)} {value} must be at least {least}")


def check_share(config: Any, name: str, *, below_one: bool = False) -> None:
    """Hold a field to [0, 1], or to [0, 1) (``UsageError`` otherwise); NaN is refused too."""
    value = getattr(config, name)
    if not 0 <= value <= 1 or (below_one and value == 1):
        raise UsageError(f"{flag(name)} {value} must lie in [0, 1{')' if below_one else ']'}")


def flag(name: str) -> str:
    """The command-line spelling of a field name."""
    return "--" + name.replace("_", "-")
