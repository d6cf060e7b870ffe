"""``erase batch``: what it prints, what it writes, and how it ends."""

import json

import pytest

from erase.batch import units
from erase.cli import main


@pytest.fixture
def batch(capsys):
    """``batch(plan, *flags)``: exit code, stdout and stderr of the command on the jobs file of a plan."""

    def call(plan, *flags):
        code = 0
        try:
            main(["batch", str(plan.jobs.path), *flags])
        except SystemExit as exited:
            code = exited.code
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def test_a_look_writes_nothing(batch, planned):
    plan = planned("look")
    code, out, _ = batch(plan, "--dry-run")
    assert code == 0 and "2 models under 1 protocol," in out and "runs 2, references 1, shards 12, records 2" in out
    code, out, _ = batch(plan, "--dry-run", "--json")
    found = json.loads(out)
    assert found["images"] == 3 * 21 and found["rows"] > 0 and found["disk"]["shards"] > 0
    code, out, _ = batch(plan, "--status")
    assert code == 0 and "0 of 18 units done" in out
    assert batch(plan, "--print-sbatch")[1].startswith("#!/bin/bash\n")
    assert not plan.folder.path.exists()


def test_the_table_is_the_result(batch, finished):
    code, out, err = batch(finished)
    assert code == 0 and "gradient_ascent" in out and "results.jsonl" in err and "report.html" in err
    assert batch(finished, "--format", "latex")[1].startswith(r"\begin{table}")
    code, out, _ = batch(finished, "--json")
    found = json.loads(out)
    assert found["done"] == found["all"] == 18 and found["tables"][0]["rows"][0]["method"] == "original"
    assert {path.suffix for path in finished.folder.tables_dir.iterdir()} == {".txt", ".md", ".csv", ".tex", ".html"}


def test_a_failure_is_shown_and_ends_with_1(batch, planned, monkeypatch):
    def fail(*given, **named):
        raise RuntimeError("out of paper")

    plan = planned("hopeless", seeds=(0,))
    monkeypatch.setattr(units, "score_block", fail)
    code, _, err = batch(plan)
    assert code == 1 and "RuntimeError: out of paper" in err and "repeat the command to go on" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dry-run", "--status"], "--dry-run and --status"),
        (["--json", "--print-sbatch"], "--json has no effect with --print-sbatch"),
        (["--format", "csv", "--json"], "--format csv has no effect with --json"),
        (["--workers", "2"], "--workers 2 has no effect with --executor local"),
    ],
)
def test_flags_without_effect_are_refused(batch, planned, flags, words):
    code, _, err = batch(planned("look"), *flags)
    assert code == 2 and words in err
