"""The README's commands as the command line reads them, and its jobs file as a batch does."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.erasures import RESULTS, kept_lines
from benchmarks.probe_summary import tables
from benchmarks.probe_table import Subject
from erase.batch.jobs import read_jobs

SPEC = importlib.util.spec_from_file_location("pages", Path(__file__).with_name("pages.py"))
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

README = Path(__file__).parents[1] / "README.md"
BLOCKS = pages.blocks_of(README)


@pytest.mark.parametrize("line", [line for block in BLOCKS for line in block.commands])
def test_every_command_is_one_that_the_command_line_takes(line):
    """Parsed with all options and their types, not run: what each does is tested where it is at home."""
    pages.check_command(line)


def test_the_tables_of_attacks_are_those_of_the_results():
    """``python -m benchmarks.probe_table`` prints them; none of their figures is typed."""
    lines = {Subject(**line["subject"]): line["result"] for line in kept_lines(RESULTS / "probe_table.jsonl")}
    readme = README.read_text()
    assert [line for line in tables(lines).splitlines() if line not in readme] == []


def test_the_jobs_file_is_one_that_a_batch_takes(tmp_path):
    (block,) = [block for block in BLOCKS if block.language == "yaml"]
    (tmp_path / "jobs.yaml").write_text(block.text)
    jobs = read_jobs(tmp_path / "jobs.yaml")
    assert len(jobs.runs) > 0 and jobs.executor.workers == 2
