"""``erase methods``, ``erase classes``, ``erase doctor``: what there is, without changing anything."""

import dataclasses
import inspect

import click

from . import print_json
from .options import show, table


@click.command()
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
        rows = [
            (f"--{option.replace('_', '-')}", show(default), text)
            for option, (default, text) in entry["options"].items()
        ]
        click.echo(f"{entry['documentation']}\n\n{table(rows, ('option', 'default', 'meaning'))}")
        click.echo(
            f"\ndefaults of the engine: {entry['defaults'] or 'unchanged'}\npreset paper: {entry['paper'] or 'none'}"
        )


def describe(kind: type) -> dict[str, object]:
    """What a method says about itself."""
    return {
        "summary": kind.__doc__.strip().split("\n")[0],
        "documentation": inspect.getmodule(kind).__doc__.strip(),
        "options": {entry.name: (entry.default, entry.metadata["help"]) for entry in dataclasses.fields(kind)},
        "defaults": dict(kind.defaults),
        "paper": dict(kind.paper),
    }


@click.command()
@click.argument("query", nargs=-1)
@click.option("--model", default="digits", help="embedded model, folder or hub id [default: digits]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def classes(query: tuple[str, ...], model: str, as_json: bool) -> None:
    """Find classes of a model by index, wnid, name or a word of it; without QUERY list all."""
    from pipelines.errors import UsageError
    from pipelines.model import load_classes

    names = load_classes(model)
    found = names.search(" ".join(query))
    if not found:
        names.resolve(" ".join(query))
        raise UsageError(f"no class of {model} matches {' '.join(query)!r}")
    if as_json:
        print_json({"classes": [dataclasses.asdict(entry) for entry in found]})
        return
    rows = [
        (str(entry.index), entry.wnid or "", ", ".join(entry.synonyms) or entry.name, entry.definition or "")
        for entry in found
    ]
    click.echo(table(rows, ("index", "wnid", "names", "definition")))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def doctor(as_json: bool) -> None:
    """Check the installation: versions, device, cache, and the embedded model by drawing and recognising digits."""
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
    facts = {
        **environment(),
        "cpu threads": torch.get_num_threads(),
        "cache": str(cache_dir()),
        "digits recognised": f"{right} of {len(requests)}",
        "healthy": right >= 0.9 * len(requests),
    }
    print_json(facts) if as_json else click.echo(
        table([(key, str(value)) for key, value in facts.items()], ("check", "found"))
    )
    if not facts["healthy"]:
        raise SystemExit(1)
