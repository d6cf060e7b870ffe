"""``erase run``: erase classes, score before and after, write the run directory."""

from typing import Any

import click

from . import print_json
from .options import common_options, engine_options, engine_settings, shown_command, split_arguments, typed

DEFAULT_MODEL = "facebook/DiT-XL-2-256"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="CLASS... [--METHOD-OPTION VALUE]...")
@click.option("--model", default=DEFAULT_MODEL, help=f"embedded model, folder or hub id [default: {DEFAULT_MODEL}]")
@click.option("--method", default="retain_posterior", help="`erase methods` lists them [default: retain_posterior]")
@click.option("--preset", default="default", help="default, or paper: the method's published settings")
@click.option("--data", default=None, help="image folder, zip, digits, or replay: the model's own samples")
@click.option("--protocol", default=None, help="how to score; none skips it [default: by the model]")
@click.option("--reference", default=None, help="real images to compare samples with [default: the model's own]")
@click.option("--seed", type=int, default=None, help="seed of every random draw [default: 0]")
@click.option("--fisher-samples", type=int, default=None, help="gradients in each Fisher diagonal [default: 1000]")
@click.option("--replay-per-class", type=int, default=None, help="replayed samples of each class [default: 100]")
@click.option("--dry-run", is_flag=True, help="print the plan and write nothing")
@common_options
@engine_options
def run(
    arguments: tuple[str, ...],
    model: str,
    method: str,
    preset: str,
    data: str | None,
    protocol: str | None,
    reference: str | None,
    seed: int | None,
    fisher_samples: int | None,
    replay_per_class: int | None,
    dry_run: bool,
    output: str | None,
    device: str,
    as_json: bool,
    **engine: Any,
) -> None:
    """Erase CLASS... (index, wnid or name) from a model.

    Options of the method are given as flags too: `erase methods sfron` lists them.
    """
    from erase import api, plan
    from erase.method import method_class

    classes, method_options = split_arguments(arguments)
    options = {**engine_settings(engine), **typed(method_options, method_class(method))}
    given = {"seed": seed, "fisher_samples": fisher_samples, "replay_per_class": replay_per_class}
    options |= {name: value for name, value in given.items() if value is not None}
    asked = api.request(
        model,
        classes,
        method=method,
        preset=preset,
        data=data,
        options=options,
        output_dir=output,
        protocol=protocol,
        reference=reference,
        device=device,
    )
    if dry_run:
        counted = plan.count(asked.config, asked.protocol, asked.device)
        print_json(counted) if as_json else click.echo(plan.text(counted))
        return
    result = api.execute(asked, command=shown_command(), progress=True)
    print_json(result.summary()) if as_json else click.echo(result.text())
