"""``erase run``: erase classes, score before and after, write the run directory."""

import click

from . import print_json
from .options import (
    common_options,
    given_judges,
    given_settings,
    judge_options,
    model_option,
    setting_options,
    shown_command,
    split_arguments,
    typed,
)


@click.command(context_settings={"ignore_unknown_options": True}, short_help="Erase classes, score, report.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="CLASS... [--METHOD-OPTION VALUE]...")
@model_option("digits, folder or hub id")
@click.option("--method", default="retain_posterior", help="`erase methods` lists them [default: retain_posterior]")
@click.option("--preset", default="default", help="default, or paper: the method's published settings")
@click.option("--data", default=None, help="image folder, zip, digits, or replay: the model's own samples")
@click.option("--protocol", default=None, help="paper, full, quick, small, or none to skip scoring [default: by model]")
@judge_options
@click.option("--also", multiple=True, metavar="CLASS", help="a further class to erase; may be repeated")
@click.option("--dry-run", is_flag=True, help="print the plan and write nothing")
@common_options
@setting_options
def run(
    arguments: tuple[str, ...],
    model: str,
    method: str,
    preset: str,
    data: str | None,
    protocol: str | None,
    also: tuple[str, ...],
    dry_run: bool,
    output: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Erase CLASS... (index, wnid or name); options of the method are flags too, see `erase methods NAME`."""
    from erase import api
    from erase.api import plan
    from erase.method import method_class

    classes, method_options = split_arguments(arguments)
    options = {**given_settings(), **typed(method_options, method_class(method))}
    asked = api.request(
        model,
        [*classes, *also],
        method=method,
        preset=preset,
        data=data,
        options=options,
        output_dir=output,
        protocol=protocol,
        device=device,
        **given_judges(),
    )
    if dry_run:
        counted = plan.count(asked.config, asked.protocol, asked.device)
        print_json(counted) if as_json else click.echo(plan.text(counted))
        return
    plan.tell_siblings(asked.config)
    result = api.execute(asked, command=shown_command(), progress=True)
    print_json(result.summary()) if as_json else click.echo(result.text())
