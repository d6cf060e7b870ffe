"""The command ``erase``: each command parses, calls one function and prints; heavy imports happen inside commands."""

import importlib
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from pipelines.errors import (
    TOLD,
    DivergedError,
    GateFailedError,
    InterruptedRun,
    LostProcessError,
    MissingError,
    UsageError,
)
from pipelines.launcher import launched_rank, num_launched

COMMANDS = {
    "demo": "erase.cli.demo:demo",
    "run": "erase.cli.run:run",
    "sample": "erase.cli.sample:sample",
    "eval": "erase.cli.score:score",
    "probe": "erase.cli.probe:probe",
    "batch": "erase.cli.batch:batch",
    "compare": "erase.cli.score:compare",
    "methods": "erase.cli.inform:methods",
    "classes": "erase.cli.inform:classes",
    "cache": "erase.cli.data:cache",
    "stats": "erase.cli.data:stats",
    "export": "erase.cli.export:export",
    "apply": "erase.cli.export:apply",
    "pretrain": "erase.cli.pretrain:pretrain",
    "doctor": "erase.cli.inform:doctor",
}
SHARED = ("run",)  # the commands that several processes of one launch can share
EXIT_CODES = {
    UsageError: 2,
    GateFailedError: 3,
    MissingError: 4,
    DivergedError: 5,
    InterruptedRun: 75,
    LostProcessError: 1,
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of first use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        return getattr(importlib.import_module(module), name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dit-erase", prog_name="erase")
def cli() -> None:
    """Erase a named class from a class-conditional diffusion transformer, and put the erasure to the proof.

    \b
    erase demo                      the whole story on the embedded digits model
    erase run "golden retriever"    erase from facebook/DiT-XL-2-256 (--model names another)
    """
    command = click.get_current_context().invoked_subcommand
    if num_launched() > 1 and command not in SHARED:
        raise click.UsageError(f"`erase {command}` is the work of one process and {num_launched()} were launched")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors that a user can act on become one sentence on stderr and an exit code."""
    heed_interrupts()
    try:
        cli(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="erase", standalone_mode=False)
    except tuple(EXIT_CODES) as error:
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        fail(str(error), code, told=launched_rank() > 0 and is_known_to_first(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        fail(error.format_message(), 2, told=launched_rank() > 0)
    except (KeyboardInterrupt, click.Abort):
        fail("stopped", 130, told=launched_rank() > 0)


def heed_interrupts() -> None:
    """Let SIGINT stop what a script started with ``&``: shells have such processes ignore it, `kill -INT` included."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_known_to_first(error: Exception) -> bool:
    """Whether the first process of a launch has an error too; one of a value or a file may be this process's own."""
    return not isinstance(error, (UsageError, MissingError)) or TOLD in getattr(error, "__notes__", ())


def fail(sentence: str, code: int, *, told: bool) -> None:
    """Print one error, unless another process has ``told`` it, and exit."""
    if not told:
        click.echo(f"error: {sentence}", err=True)
    sys.exit(code)


def print_json(value: Any) -> None:
    """The one JSON object of a ``--json`` command."""
    click.echo(json.dumps(value, indent=2))
