"""The README's commands as the command line reads them, and its jobs file as a batch does."""

import importlib.util
from pathlib import Path

import pytest

from erase.batch.jobs import read_jobs

SPEC = importlib.util.spec_from_file_location("pages", Path(__file__).with_name("pages.py"))
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

BLOCKS = pages.blocks_of(Path(__file__).parents[1] / "README.md")


@pytest.mark.parametrize("line", [line for block in BLOCKS for line in block.commands])
def test_every_command_is_one_that_the_command_line_takes(line):
    """Parsed with all options and their types, not run: what each does is tested where it is at home."""
    pages.check_command(line)


def test_the_jobs_file_is_one_that_a_batch_takes(tmp_path):
    (block,) = [block for block in BLOCKS if block.language == "yaml"]
    (tmp_path / "jobs.yaml").write_text(block.text)
    jobs = read_jobs(tmp_path / "jobs.yaml")
    assert len(jobs.runs) > 0 and jobs.executor.workers == 2
