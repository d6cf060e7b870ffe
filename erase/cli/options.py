"""Flags made from dataclass fields: a field is its flag, its default and its line of help."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from erase.config import EngineConfig, flag
from pipelines.errors import UsageError

Command = Callable[..., Any]


def engine_options(command: Command) -> Command:
    """One flag for each field of ``EngineConfig``; a flag that is not given leaves the field to preset and method."""
    hints = get_type_hints(EngineConfig)
    for entry in reversed(dataclasses.fields(EngineConfig)):
        text = f"{entry.metadata['help']} [default: {show(entry.default)}]"
        kind = hints[entry.name]
        if kind is bool:
            names = f"{flag(entry.name)}/--no-{entry.name.replace('_', '-')}"
            command = click.option(names, default=None, help=text)(command)
        else:
            choice = click.Choice([str(value) for value in get_args(kind)]) if get_origin(kind) is Literal else kind
            command = click.option(flag(entry.name), type=choice, default=None, help=text)(command)
    return command


def shown_command() -> str:
    """The command line as it was typed, for the report."""
    return shlex.join(["erase", *sys.argv[1:]])


def show(value: Any) -> str:
    """A default as a user would type it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def common_options(command: Command) -> Command:
    """The flags that every run-like command has."""
    flags = [
        click.option("--output", type=click.Path(), default=None, help="run directory [default: below runs/]"),
        click.option("--device", default="auto", help="auto, cpu or cuda [default: auto]"),
        click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object"),
    ]
    for option in reversed(flags):
        command = option(command)
    return command


def engine_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The engine flags that were given, out of all parameters of a command."""
    names = {entry.name for entry in dataclasses.fields(EngineConfig)}
    return {name: value for name, value in given.items() if name in names and value is not None}


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Classes and method options out of the arguments that no flag took: ``--name value`` or ``--name=value``."""
    classes, options, tokens = [], {}, iter(arguments)
    for token in tokens:
        if not token.startswith("--"):
            classes.append(token)
            continue
        name, equals, value = token[2:].partition("=")
        if not equals:
            value = next(tokens, None)
            if value is None:
                raise UsageError(f"--{name} needs a value")
        options[name.replace("-", "_")] = value
    return classes, options


def typed(values: dict[str, str], kind: type) -> dict[str, Any]:
    """Method options in the types of the method's fields; unknown names stay text until they are refused."""
    hints = get_type_hints(kind)
    return {name: convert(name, value, hints.get(name, str)) for name, value in values.items()}


def convert(name: str, text: str, kind: Any) -> Any:
    """One value in its field's type (``UsageError``)."""
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise UsageError(f"{flag(name)} {text!r} is not {word}") from None


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    """Columns aligned for a terminal."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
