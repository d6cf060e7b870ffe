"""Flags made from dataclass fields: a field is its flag, its default and its line of help."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from erase.config import OWN_OPTIONS, EngineConfig, ErasureConfig
from erase.fields import flag
from pipelines.errors import UsageError

Command = Callable[..., Any]
DEFAULT_MODEL = "facebook/DiT-XL-2-256"
JUDGES = "erase judges"  # where a command's context keeps the judge flags
REQUEST = "erase request"  # where it keeps method, preset, data and protocol
SAMPLER = "erase sampler"  # where it keeps how images are drawn
SETTINGS = "erase settings"  # where a command's context keeps the setting flags


def setting_options(command: Command) -> Command:
    """A flag for each field of ``EngineConfig`` and each number of ``ErasureConfig``.

    ``given_settings`` collects them; a flag that is not given leaves the field to preset and method.
    """
    own = [entry for entry in dataclasses.fields(ErasureConfig) if entry.name in OWN_OPTIONS]
    hints = {**get_type_hints(ErasureConfig), **get_type_hints(EngineConfig)}
    for entry in reversed([*own, *dataclasses.fields(EngineConfig)]):
        text = f"{entry.metadata['help']} [default: the method's, else {show(entry.default)}]"
        if entry.default == "":
            text = entry.metadata["help"]
        kind, names = hints[entry.name], flag(entry.name)
        if kind is bool:
            names += f"/--no-{entry.name.replace('_', '-')}"
        choice = click.Choice([str(value) for value in get_args(kind)]) if get_origin(kind) is Literal else kind
        command = click.option(
            names, type=choice, default=None, help=text, expose_value=False,
            callback=remember_in(SETTINGS, only_given=True),
        )(command)  # fmt: skip
    return command


def given_settings() -> dict[str, Any]:
    """The setting flags that the running command was given, by field name."""
    return dict(click.get_current_context().meta.get(SETTINGS, {}))


def shown_command() -> str:
    """The command line as it was typed, for the report."""
    return shlex.join(["erase", *sys.argv[1:]])


def show(value: Any) -> str:
    """A default as a user would type it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def model_option(help: str) -> Callable[[Command], Command]:
    """The flag ``--model``, with one default in every command."""
    return click.option("--model", default=DEFAULT_MODEL, help=f"{help} [default: {DEFAULT_MODEL}]")


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


def neighbours_option(command: Command) -> Command:
    """The flag ``--neighbours``: the related classes that the scores watch."""
    text = "related classes to watch: how many, or CLASS,CLASS,... [default: 3 that the classifier finds nearest]"
    return click.option("--neighbours", default=None, help=text, callback=parse_panel)(command)


def parse_panel(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """A number or a list of classes out of the text."""
    from erase.api.watching import parse_neighbours

    return parse_neighbours(value)


def judge_options(command: Command) -> Command:
    """The flags that say where a protocol finds its judges; ``given_judges`` collects them."""
    flags = {
        "--reference": "real images or npz statistics [default: the model's own]",
        "--classifier": "weights file of the protocol's classifier [default: timm's]",
        "--inception": "Inception weights [default: $ERASE_INCEPTION, else the cache]",
    }
    return collected(command, flags, remember_in(JUDGES))


def request_options(command: Command) -> Command:
    """The flags that say what is erased how and scored how; ``given_request`` collects them."""
    flags = {
        "--method": "`erase methods` lists them [default: retain_posterior]",
        "--preset": "default, or paper: the method's published settings",
        "--data": "image folder, zip, save_to_disk folder, digits, or replay: the model's own samples",
        "--memory": "auto adds, and names, what a run needs to fit on the device; fixed adds nothing [default: auto]",
        "--protocol": "paper, full, quick, small, or none to skip scoring [default: by model]",
    }
    return collected(command, flags, remember_in(REQUEST, only_given=True))


def sampler_options(command: Command) -> Command:
    """The flags that say how images are drawn; ``given_sampler`` collects them."""
    flags = {
        "--sampler": ("dpm-solver++", "ddpm, ddim or dpm-solver++"),
        "--num-inference-steps": (20, "sampling steps"),
        "--guidance-scale": (1.0, "classifier-free guidance; 1 is off"),
        "--guidance-start": (0.0, "share of the steps, from the noisiest on, before guidance"),
        "--guidance-end": (1.0, "share of the steps at which guidance ends"),
        "--precision": ("fp32", "fp32 or bf16 arithmetic of the network"),
        "--decoder-precision": ("fp32", "fp32 or bf16 arithmetic of the VAE"),
    }
    for name, (default, text) in reversed(flags.items()):
        command = click.option(
            name, type=type(default), default=default, help=f"{text} [default: {show(default)}]", expose_value=False,
            callback=remember_in(SAMPLER),
        )(command)  # fmt: skip
    return command


def collected(command: Command, flags: Mapping[str, str], callback: Callable[..., None]) -> Command:
    """A command with flags that a callback keeps in its context instead of its parameters."""
    for name, text in reversed(flags.items()):
        option = click.option(name, default=None, help=text, expose_value=False, callback=callback)
        command = option(command)
    return command


def remember_in(place: str, *, only_given: bool = False) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that keeps a flag in a place of the context; ``only_given`` leaves out one that has no value."""

    def remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        kept = context.meta.setdefault(place, {})
        if value is not None or not only_given:
            kept[parameter.name] = value

    return remember


def given_sampler() -> dict[str, Any]:
    """How the running command was told to draw images, by field of ``SamplerSettings``."""
    return dict(click.get_current_context().meta[SAMPLER])


def given_judges() -> dict[str, str | None]:
    """Where the running command was told to find reference, classifier and Inception."""
    return dict(click.get_current_context().meta[JUDGES])


def given_request() -> dict[str, str]:
    """Method, preset, data, memory and protocol as far as the running command was given them."""
    return dict(click.get_current_context().meta[REQUEST])


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
