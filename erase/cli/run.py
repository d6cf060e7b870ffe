"""``erase run``: erase classes, score before and after, write the run directory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from erase.logger import logger_names
from pipelines.errors import UsageError

from . import print_json
from .options import (
    common_options,
    given_judges,
    given_request,
    given_settings,
    judge_options,
    model_option,
    neighbours_option,
    request_options,
    setting_options,
    shown_command,
    split_arguments,
    typed,
)

if TYPE_CHECKING:
    from erase.api.requesting import Request
    from erase.api.result import Result
    from eval.gates import Gate


@click.command(context_settings={"ignore_unknown_options": True}, short_help="Erase classes, score, report.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="CLASS... [--METHOD-OPTION VALUE]...")
@model_option("digits, folder or hub id")
@request_options
@judge_options
@neighbours_option
@click.option("--also", multiple=True, metavar="CLASS", help="a further class to erase; may be repeated")
@click.option(
    "--gate", default=None, help='bounds (<=, >=, <, >) that must hold, e.g. "forget_accuracy<=0.01, retain_drop<=0.02"'
)
@click.option(
    "--retrained",
    default=None,
    help="with --gate: model that `erase pretrain` made without the erased classes, the floor",
)
@click.option("--log-to", multiple=True, metavar="LOGGER", help=f"{', '.join(logger_names())}; may be repeated")
@click.option("--dry-run", is_flag=True, help="print the plan and write nothing")
@common_options
@setting_options
def run(
    arguments: tuple[str, ...],
    model: str,
    also: tuple[str, ...],
    neighbours: int | list[str] | None,
    gate: str | None,
    retrained: str | None,
    log_to: tuple[str, ...],
    dry_run: bool,
    output: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Erase CLASS... (index, wnid or name); options of the method are flags too, see `erase methods NAME`."""
    from erase import api
    from erase.api import plan
    from erase.api.gating import check_floor
    from pipelines.ranks import is_first, joined, on_first, shared_errors

    with joined():
        with shared_errors():
            named, options, gates = parsed(arguments, gate)
        asked = api.request(
            model, [*named, *also], options=options, neighbours=neighbours, output_dir=output, device=device,
            log_to=log_to, **given_request(), **given_judges(),
        )  # fmt: skip
        on_first(lambda: check_floor(gates, retrained, asked.config))
        if dry_run:
            on_first(asked.tell)
            panel = asked.judges.neighbours
            counted = on_first(lambda: plan.count(asked.config, asked.protocol, asked.device, neighbours=panel))
            if is_first():
                tell_plan(counted, gate_attacks(asked, gates, retrained), as_json=as_json)
            return
        on_first(lambda: plan.tell(asked.config, asked.judges.neighbours))
        asked = replace(asked, gates=tuple(map(str, gates)))
        result = api.execute(asked, command=shown_command(), progress=True)
        if is_first():
            print_json(result.summary()) if as_json else click.echo(result.text())
        on_first(lambda: hold_and_tell(result, gates, retrained=retrained, device=device, quiet=as_json))


def hold_and_tell(
    result: "Result", gates: Sequence["Gate"], *, retrained: str | None, device: str, quiet: bool
) -> None:
    """Hold a run to its gates, and print what became of each unless one fails."""
    from erase.api.gating import hold_gates

    for sentence in hold_gates(result, gates, retrained=retrained, device=device, progress=True):
        if not quiet:
            click.echo(f"  {sentence}")


def gate_attacks(asked: "Request", gates: Sequence["Gate"], retrained: str | None) -> dict[str, Any]:
    """What the attacks take that gates need; empty where they need none beside the one of every run."""
    from erase.api import probe_plan
    from erase.api.gating import attacks_for

    floor = retrained is not None
    names = attacks_for(gates, floor=floor)
    if not names:
        return {}
    return probe_plan.attacks_plan(
        asked.config, asked.protocol, names=names, budget="quick", floor=floor, device=asked.device
    )


def tell_plan(counted: dict[str, Any], attacks: dict[str, Any], *, as_json: bool) -> None:
    """Print the plan of a run, and that of the attacks that its gates need."""
    from erase.api import plan, probe_plan

    if as_json:
        print_json(counted | ({"attacks": attacks} if attacks else {}))
        return
    gated = [f"then, for the gates:\n{probe_plan.text(attacks)}"] if attacks else []
    click.echo("\n".join([plan.text(counted), *gated]))


def parsed(arguments: Sequence[str], gate: str | None) -> tuple[list[str], dict[str, Any], list["Gate"]]:
    """Classes, options and gates of a command line (``UsageError``)."""
    from erase import api
    from erase.method import method_class

    request = given_request()
    gates = [] if gate is None else scored_gates(gate, request.get("protocol"))
    classes, method_options = split_arguments(arguments)
    kind = method_class(request.get("method", api.DEFAULT_METHOD))
    return classes, {**given_settings(), **typed(method_options, kind)}, gates


def scored_gates(text: str, protocol: str | None) -> "list[Gate]":
    """The bounds of ``--gate``; ``UsageError`` for a run that makes no scores."""
    from eval.gates import parse_gates

    gates = parse_gates(text)
    if protocol == "none":
        raise UsageError(f"--gate {text!r} needs scores, and --protocol none makes none")
    return gates
