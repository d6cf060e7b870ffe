"""The README's commands as the command line reads them, and its jobs file as a batch does."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import beyond_budget, default_attempts, default_summary, method_table, posterior_quality
from benchmarks.attacks import CONTROLS, by_key, kept
from benchmarks.erasures import ORIGINAL, RESULTS
from benchmarks.lines import kept_lines
from benchmarks.probe_summary import strength, tables
from benchmarks.probe_table import controls, subjects
from erase.batch.jobs import read_jobs
from erase.cli.demo import QUICK
from erase.fields import flag
from erase.method import method_names
from pipelines.files import read_json

SPEC = importlib.util.spec_from_file_location("pages", Path(__file__).with_name("pages.py"))
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

README = Path(__file__).parents[1] / "README.md"
METHODS, PROBES = (README.with_name("docs") / name for name in ("methods.md", "probes.md"))
BLOCKS = pages.blocks_of(README)


@pytest.mark.parametrize("line", [line for block in BLOCKS for line in block.commands])
def test_every_command_is_one_that_the_command_line_takes(line):
    """Parsed with all options and their types, not run: what each does is tested where it is at home."""
    pages.check_command(line)


def test_the_tables_of_attacks_are_those_of_the_results():
    """``python -m benchmarks.probe_table`` prints them; none of their figures is typed."""
    told = tables(kept(subjects(default=False), RESULTS / "probe_table.jsonl"))
    assert pages.tables_not_in(README, told) == []


def test_what_each_attack_finds_is_that_of_the_results():
    """``python -m benchmarks.probe_table`` prints it last: a class there, hidden, absent and erased, and one kept."""
    wanted = subjects(default=False)
    lines, done = kept(wanted, RESULTS / "probe_table.jsonl"), by_key(CONTROLS)
    kept_classes = {each.subject.forget_class: done[each.key] for each in controls(wanted)}
    assert len(kept_lines(CONTROLS)) == len(kept_classes)
    assert pages.tables_not_in(PROBES, strength(lines, kept_classes)) == []


def test_the_table_of_methods_is_that_of_the_results():
    """``python -m benchmarks.method_table`` prints it without what each method does; ``stability`` retrains."""
    results = read_json(RESULTS / "method_table.json")["results"]
    _, section = README.read_text().split("\n## Methods\n\n")
    *told, retrain = [without_second_cell(line) for line in section.split("\n\n")[0].splitlines()]
    assert results.keys() == {ORIGINAL, *method_names()} - {"retrain"} and retrain.startswith("| `retrain` |")
    assert sorted(told) == sorted(method_table.markdown(results).splitlines())


def without_second_cell(line: str) -> str:
    """A line of a Markdown table."""
    first, _, rest = line.removeprefix("| ").split(" | ", 2)
    return f"| {first} | {rest}"


def test_the_table_of_the_full_budget_is_that_of_the_results():
    """``python -m benchmarks.probe_table --default`` prints it."""
    found = kept(subjects(default=True), RESULTS / "default_probes.jsonl")
    lines = {subject.forget_class: line for subject, line in found.items()}
    assert pages.tables_not_in(PROBES, default_summary.tables(dict(sorted(lines.items())))) == []
    assert pages.tables_not_in(README, default_summary.overview(lines)) == []
    section = README.read_text().split("python -m\nbenchmarks.probe_table --default")[1].split(":\n\n")[1]
    assert section.startswith(default_summary.overview(lines))


def test_attacks_beyond_the_full_budget_are_those_of_the_results():
    """``python -m benchmarks.beyond_budget`` prints them; each model stands beside the one that never saw the class."""
    lines = beyond_budget.kept()
    assert lines and lines.keys() == {replace(job, who=who) for job in lines for who in beyond_budget.NAMES}
    assert len(lines) == len(kept_lines(beyond_budget.PATH))
    assert pages.tables_not_in(PROBES, beyond_budget.tables(lines)) == []


def test_the_short_erasure_is_the_one_of_the_demo():
    """Its figures stand beside the flags that make it."""
    flags = " ".join(words_of(name, value) for name, value in QUICK.items())
    assert f"`{flags}`" in " ".join(README.read_text().split())


def words_of(name: str, value: Any) -> str:
    """A setting as it is typed."""
    return f"--no-{name}" if value is False else f"{flag(name)} {value}"


def test_the_attempts_at_other_defaults_are_those_of_the_results():
    """``python -m benchmarks.default_attempts`` prints them."""
    told = default_attempts.tables(read_json(RESULTS / "default_attempts.json"))
    assert pages.tables_not_in(METHODS, told) == []


def test_the_table_of_posteriors_is_that_of_the_results():
    """``python -m benchmarks.posterior_quality`` prints it."""
    summary = read_json(RESULTS / "posterior_quality.json")
    assert pages.tables_not_in(METHODS, posterior_quality.markdown(summary["posteriors"], summary["erasures"])) == []


def test_the_figures_of_speed_are_those_of_the_results():
    """``python -m benchmarks.all`` measured every ratio of the table, and none that was asked for is left out."""
    record = read_json(RESULTS / "speed-cpu.json")
    measured = [row for part in record.values() for row in part["results"] if "ratio" in row]
    section = README.read_text().split("## How fast")[1].split("## ")[0]
    told = [line for line in section.splitlines() if line.startswith("| ") and "asked for" not in line]
    for place, lane in ((2, "same arithmetic"), (3, "bf16")):
        cells = [line.split("|")[place].strip() for line in told]
        ratios = {written(row, form) for row in measured if row["lane"] == lane for form in (".2f", ".0f")}
        assert [cell for cell in cells if cell and cell not in ratios] == []
    asked = [f"{row['at_least']:g}" for row in measured if row["at_least"] and row["lane"] != "shipped defaults"]
    assert sorted(asked) == sorted(bound for line in told for bound in numbers(line.split("|")[4]))


def written(row: dict[str, Any], form: str) -> str:
    """A ratio with its extremes, where there are some."""
    ratio, low, high = (f"{row[name]:{form}}" for name in ("ratio", "lowest", "highest"))
    return f"{ratio} ({low} to {high})" if row["lowest"] < row["highest"] else ratio


def numbers(cell: str) -> list[str]:
    """The numbers of a cell as they are written."""
    return [part.strip() for part in cell.split("/") if part.strip() not in ("", "-")]


def test_the_jobs_file_is_one_that_a_batch_takes(tmp_path):
    (block,) = [block for block in BLOCKS if block.language == "yaml"]
    (tmp_path / "jobs.yaml").write_text(block.text)
    jobs = read_jobs(tmp_path / "jobs.yaml")
    assert len(jobs.runs) > 0 and jobs.executor.workers == 2
