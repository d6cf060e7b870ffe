"""The README's commands as the command line reads them, and its jobs file as a batch does."""

import re
import shlex
from pathlib import Path

import click
import pytest

from erase.batch.jobs import read_jobs
from erase.cli import cli

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if line.startswith("erase ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_that_the_command_line_takes(line):
    """Parsed with all options and their types, not run: what each does is tested where it is at home."""
    command, arguments = cli, shlex.split(line, comments=True)[1:]
    context = click.Context(command, info_name="erase")
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(context, arguments)
    command.make_context(name, arguments, parent=context)


def test_the_jobs_file_is_one_that_a_batch_takes(tmp_path):
    (block,) = [block for language, block in BLOCKS if language == "yaml"]
    (tmp_path / "jobs.yaml").write_text(block)
    jobs = read_jobs(tmp_path / "jobs.yaml")
    assert len(jobs.runs) > 0 and jobs.executor.workers == 2
