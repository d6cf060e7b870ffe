"""``erase methods``, ``erase classes``, ``erase doctor``: what there is, without changing anything."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from erase.config import EngineConfig, ErasureConfig
from erase.fields import flag
from pipelines.errors import UsageError

from . import print_json
from .options import DEFAULT_MODEL, model_option, show, table


@click.command(short_help="List the erasure methods, or the options of one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def methods(name: str | None, as_json: bool) -> None:
    """List the erasure methods, or the options of one."""
    from erase.method import method_class, method_names

    names = [name] if name else method_names()
    found = {each: describe(method_class(each)) for each in names}
    if as_json:
        print_json(found)
    elif name is None:
        click.echo(table([(each, entry["summary"]) for each, entry in found.items()], ("method", "what it does")))
    else:
        entry = found[name]
        rows = [(option, show(each["default"]), meaning(each)) for option, each in entry["options"].items()]
        rows += changed_settings(entry["defaults"])
        click.echo(f"{entry['documentation']}\n\n{table(rows, ('option', 'default', 'meaning'))}")
        click.echo("\nAll other settings of the engine are at the defaults that `erase run --help` names.")
        click.echo(f"--preset paper  {flags_of(entry['paper']) or 'none: it has no published settings for DiT'}")


def describe(kind: type) -> dict[str, Any]:
    """What a method says about itself."""
    hints = get_type_hints(kind)
    return {
        "summary": kind.__doc__.strip().split("\n")[0],
        "documentation": inspect.getmodule(kind).__doc__.strip(),
        "options": {
            flag(entry.name): {
                "default": entry.default,
                "choices": list(get_args(hints[entry.name])) if get_origin(hints[entry.name]) is Literal else None,
                "help": entry.metadata["help"],
            }
            for entry in dataclasses.fields(kind)
        },
        "defaults": dict(kind.defaults),
        "paper": dict(kind.paper),
    }


def changed_settings(defaults: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Option, default and meaning of the engine settings whose defaults a method changes."""
    known = {entry.name: entry for kind in (ErasureConfig, EngineConfig) for entry in dataclasses.fields(kind)}
    rows = []
    for name, value in defaults.items():
        own = f"the engine's own default is {show(known[name].default)}"
        rows.append((flag(name), show(value), f"{known[name].metadata['help']}; {own}"))
    return rows


def meaning(entry: Mapping[str, Any]) -> str:
    """The help of an option, its accepted values first where they are few."""
    return f"{', '.join(entry['choices'])}: {entry['help']}" if entry["choices"] else entry["help"]


def flags_of(settings: Mapping[str, Any]) -> str:
    """Settings as one would type them."""
    return " ".join(f"{flag(name)} {show(value)}" for name, value in settings.items())


@click.command(short_help="Find classes of a model by index, wnid or name.")
@click.argument("query", nargs=-1)
@model_option("digits, folder or hub id")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def classes(query: tuple[str, ...], model: str, as_json: bool) -> None:
    """Find classes of a model by index, wnid, name or a word of it; without QUERY list all."""
    from pipelines.errors import UsageError
    from pipelines.model_source import load_classes

    names = load_classes(model)
    found = names.search(" ".join(query))
    if not found:
        raise UsageError(
            f"no class of {model} matches {' '.join(query)!r}; `erase classes --model {model}` lists all of them"
        )
    if as_json:
        print_json({"classes": [dataclasses.asdict(entry) for entry in found]})
        return
    columns = {
        "index": [str(entry.index) for entry in found],
        "wnid": [entry.wnid or "" for entry in found],
        "names": [", ".join(dict.fromkeys((entry.name, *entry.synonyms))) for entry in found],
        "definition": [entry.definition or "" for entry in found],
    }
    known = {title: cells for title, cells in columns.items() if any(cells)}
    click.echo(table(list(zip(*known.values(), strict=True)), list(known)))


@click.command(short_help="Check the installation.")
@click.option("--memory", is_flag=True, help="instead count what weights, gradients and moments of --model take")
@click.option("--model", default=None, help=f"whose memory is counted [default: {DEFAULT_MODEL}]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def doctor(memory: bool, model: str | None, as_json: bool) -> None:
    """Check the installation: versions, device, cache, and the embedded model by drawing and recognising digits."""
    if memory:
        show_memory(model or DEFAULT_MODEL, as_json=as_json)
        return
    if model is not None:
        raise UsageError(f"--model {model} has no effect without --memory: the embedded model is what is checked")
    facts = checked()
    print_json(facts) if as_json else click.echo(
        table([(key, str(value)) for key, value in facts.items()], ("check", "found"))
    )
    if not facts["healthy"]:
        raise SystemExit(1)


def show_memory(model: str, *, as_json: bool) -> None:
    """The bytes of a model's weights, gradients and moments, counted from its configuration."""
    from erase.memory_table import state_table
    from pipelines.model_source import PUBLISHED, transformer_config

    rows = state_table(transformer_config(PUBLISHED.get(model, model)))
    if as_json:
        print_json({"model": model, "bytes": [{**dataclasses.asdict(row), "total": row.total} for row in rows]})
        return
    cells = [
        (row.way, *(decimal_bytes(size) for size in (row.weights, row.gradients, row.moments, row.total)))
        for row in rows
    ]
    click.echo(table(cells, (model, "weights", "gradients", "moments", "together")))


def decimal_bytes(size: float) -> str:
    """Bytes in the decimal units that memory of devices is sold in."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def checked() -> dict[str, Any]:
    """What the installation is, and whether the embedded model draws digits that its classifier recognises."""
    import torch

    from erase.rundir import cache_dir, environment
    from pipelines.classifier import load_classifier
    from pipelines.generate import generate_all
    from pipelines.model import load
    from pipelines.sampler import SamplerSettings

    model = load("digits")
    requests = [(label, seed) for label in range(model.num_classes) for seed in range(10)]
    predicted = load_classifier(model.classifier_dir).predict(generate_all(model, requests, SamplerSettings()))
    right = int((predicted == torch.tensor([label for label, _ in requests])).sum())
    return {
        **environment(),
        "cache": str(cache_dir()),
        "digits recognised": f"{right} of {len(requests)}",
        "healthy": right >= 0.9 * len(requests),
    }
