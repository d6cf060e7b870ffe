"""Tables of result records: what they hold, and which records they refuse to mix."""

import copy
import csv
import io
from dataclasses import replace

import pytest

from eval.compare import compare_records, comparison_table, scores_table, tabulate, to_csv, to_markdown, to_text
from eval.evaluate import evaluate
from pipelines.errors import UsageError


@pytest.fixture
def record(toy, original, erased):
    protocol = replace(toy.protocol, num_forget_images=20, num_retain_images=40, num_inference_steps=4)
    models = {"original": original, "erased": erased}
    record = evaluate(models, forget_classes=[3], protocol=protocol, scorer=toy.scorer, reference=toy.reference)
    entry = {"value": 0.5, "low": 0.3, "high": 0.7, "n": 20}
    record["probes"] = {"embedding_restore": {"original": {**entry, "value": 1.0}, "erased": entry}}
    return record


def test_one_original_row_serves_all_runs_of_a_forget_set(record):
    other = copy.deepcopy(record)
    other["erased"]["forget_accuracy"]["value"] = 0.25
    table = tabulate({"first": record, "second": other})
    assert [row[0] for row in table.rows] == ["original (toy)", "first", "second"]
    assert table.header[:4] == ("run", "erased class", "Forget accuracy", "Retain accuracy")
    assert table.header[-1] == "embedding restore"
    assert [row[2] for row in table.rows] == ["100.0 %", "0.0 %", "25.0 %"]
    assert [row[-1] for row in table.rows] == ["100.0 %", "50.0 %", "50.0 %"]
    other["forget_classes"] = [2]
    assert [row[0] for row in tabulate({"first": record, "second": other}).rows][2:] == ["original (toy)", "second"]


def test_a_run_without_a_probe_shows_a_dash(record):
    other = copy.deepcopy(record)
    other["probes"] = {}
    assert tabulate({"first": record, "second": other}).rows[-1][-1] == "-"


def test_unlike_protocols_are_refused_with_every_difference(record):
    other = copy.deepcopy(record)
    other["protocol"] |= {"num_inference_steps": 50, "sampler": "ddim", "note": "another note"}
    with pytest.raises(UsageError, match=r"a and b .*sampler: dpm-solver.. and ddim; num inference steps: 4 and 50$"):
        tabulate({"a": record, "b": other})
    other = copy.deepcopy(record)
    other["protocol"]["note"] = "another note"
    tabulate({"a": record, "b": other})
    other["class_names"] = ["x"]
    with pytest.raises(UsageError, match=r"5 classes, zero, one, two, \.\.\. and 1 classes"):
        tabulate({"a": record, "b": other})


def test_columns_can_be_chosen(record):
    assert tabulate({"a": record}, columns=["kid"]).header[2] == "Kernel distance (toy features)"
    with pytest.raises(UsageError, match="fid"):
        tabulate({"a": record}, columns=["fid"])
    with pytest.raises(UsageError, match="at least one"):
        tabulate({})


def test_text_columns_line_up(record):
    lines = to_text(tabulate({"a": record, "a much longer name": record})).splitlines()
    assert lines[1] == "-" * len(lines[1])
    starts = {line.index("three") for line in lines[2:]}
    assert starts == {lines[0].index("erased class")}


def test_markdown_has_as_many_cells_everywhere(record):
    lines = to_markdown(tabulate({"a | b": record})).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert lines[1].startswith("| --- | --- | --: |")


def test_csv_keeps_full_precision(record):
    rows = list(csv.DictReader(io.StringIO(to_csv(tabulate({"a": record})))))
    assert [row["run"] for row in rows] == ["original (toy)", "a"]
    assert float(rows[1]["frechet"]) == record["erased"]["frechet"]["value"]
    assert float(rows[1]["forget_accuracy_high"]) == record["erased"]["forget_accuracy"]["high"]
    assert rows[1]["forget_accuracy_n"] == "20" and rows[1]["frechet_low"] == ""


def test_all_scores_of_one_record(record):
    table = scores_table(record)
    assert table.rows[0] == ("Forget accuracy", "lower", "0.0 %", "100.0 %")
    assert len(table.rows) == len(record["erased"])
    assert "forget_accuracy,lower,0.0," in to_csv(table)


@pytest.mark.parametrize(("layout", "start"), [("text", "run  "), ("markdown", "| run |"), ("csv", "run,erased_class")])
def test_layouts(record, layout, start):
    assert comparison_table({"a": record}, layout=layout).startswith(start)


def test_a_program_gets_numbers(record):
    found = compare_records({"a": record}, columns=["forget_accuracy"])
    assert found["protocol"] == record["protocol"]
    assert found["rows"][1]["run"] == "a" and found["rows"][1]["forget_accuracy_n"] == 20
    assert found["rows"][1]["embedding_restore_low"] == 0.3
