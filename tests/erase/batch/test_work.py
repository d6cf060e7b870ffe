"""Work on batches: the record is that of one evaluation, whatever the sharding; damage and loss cost what was lost."""

import json
import shutil
from pathlib import Path

import pytest

from erase.api import evaluate
from erase.batch import units
from erase.batch.gather import gather
from erase.batch.progress import failure_text, failures_of, status, status_text
from erase.batch.shard_file import read_shard
from erase.rundir import RunDir
from eval import evaluate as evaluation
from eval.blocks import score_block
from eval.evaluate import read_record, write_record
from eval.probe import Budget
from pipelines.errors import MissingError

PLACES = ("models", "asked", "batch", "config", "command")  # of a record: where things were, not what was measured


def records_of(plan):
    """Every record without what the batch adds."""
    found = {unit.name: read_record(unit.path(plan.folder)) for unit in plan.of_kind("record")}
    return {name: {key: each[key] for key in each if key != "batch"} for name, each in found.items()}


def measured(plan):
    """The measured part of every record by method and seed."""
    found = {}
    for unit in plan.of_kind("record"):
        record = read_record(unit.path(plan.folder))
        labels = record["batch"]
        found[labels["method"], labels["seed"]] = {key: record[key] for key in record if key not in PLACES}
    return found


def test_a_record_is_that_of_an_evaluation(finished, pictures, monkeypatch):
    """Bit for bit, where both draw as many images at once."""
    monkeypatch.setitem(evaluation.evaluate.__kwdefaults__, "batch_size", 3)
    for unit in finished.of_kind("record"):
        record = read_record(unit.path(finished.folder))
        asked = unit.asked
        alone = evaluate(asked.model, protocol=asked.protocol, reference=pictures, progress=False)
        added = record.pop("batch")
        assert json.dumps(record, sort_keys=True) == json.dumps(alone, sort_keys=True)
        assert added["method"] == "gradient_ascent" and len(added["shards"]) == 8
        held = read_record(unit.run.results_path)
        assert all(held[key] == record[key] for key in record if key != "probes")
        assert held["config"] == asked.config.as_dict()


@pytest.mark.parametrize("shard_blocks", [1, 3, 100])
def test_the_record_is_the_same_however_blocks_fall_into_shards(planned, worked, finished, shard_blocks):
    other = planned("other", shard_blocks=shard_blocks)
    worked(other)
    assert len(other.of_kind("shard")) != len(finished.of_kind("shard"))
    assert measured(other) == measured(finished)


def test_a_finished_batch_is_not_touched(finished, planned, worked, contents, monkeypatch):
    before = contents(finished.folder.path)
    monkeypatch.setattr(units, "score_block", None)
    monkeypatch.setattr(units, "execute", None)
    board = worked(planned())
    assert len(board.done) == len(finished.units)
    assert contents(finished.folder.path) == before


def test_only_what_was_lost_is_made_again(finished, planned, worked, contents, monkeypatch):
    """One shard cut short, one with a flipped byte, one gone: three are redone, and nothing else differs after it."""
    records, folder = records_of(finished), finished.folder
    first, second, third = lost = finished.of_kind("shard")[:3]
    before, checksums = contents(folder.path), [read_shard(unit.path(folder)).checksum for unit in lost]
    cut = first.path(folder).read_bytes()
    first.path(folder).write_bytes(cut[: len(cut) // 2])
    flipped = bytearray(second.path(folder).read_bytes())
    flipped[-5] ^= 0x40
    second.path(folder).write_bytes(flipped)
    third.path(folder).unlink()
    with pytest.raises(MissingError, match=r"is no dit-erase shard 1: truncated"):
        read_shard(first.path(folder))
    with pytest.raises(MissingError, match=r"damaged: its checksum"):
        read_shard(second.path(folder))

    blocks = []
    monkeypatch.setattr(units, "score_block", lambda *given, **named: blocks.append(1) or score_block(*given, **named))
    board = worked(planned())
    assert len(board.done) == len(finished.units) and len(blocks) == 6
    assert records_of(finished) == records
    assert [read_shard(unit.path(folder)).checksum for unit in lost] == checksums
    after = contents(folder.path)
    made_again = {str(unit.path(folder).relative_to(folder.path)) for unit in lost}  # their headers have no fixed order
    assert {name for name in before if before[name] != after[name] and "work/" not in name} <= made_again


def test_a_header_that_lies_is_found_out(finished):
    unit = finished.of_kind("shard")[0]
    path = unit.path(finished.folder)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"images 0 to", b"images 9 to"))
    with pytest.raises(MissingError, match="damaged"):
        read_shard(path)
    path.write_bytes(whole)


def test_a_model_that_changed_is_scored_anew(finished, planned):
    run, plan = finished.subjects[0], planned()
    settings = Path(run.source) / "model" / "dit.json"
    before = settings.read_text()
    settings.write_text(f"{before}\n")
    assert not any(unit.is_done(plan.folder) for unit in plan.of_kind("shard") if unit.model == run.source)
    assert all(unit.is_done(plan.folder) for unit in plan.of_kind("shard") if unit.model != run.source)
    settings.write_text(before)


def test_a_failure_does_not_stop_the_others(planned, worked, monkeypatch):
    plan = planned("failing", seeds=(0,))
    victim = plan.of_kind("shard")[2]
    carry_out = units.ShardUnit.carry_out

    def fail(self, folder, loaded):
        if self.name == victim.name:
            raise RuntimeError("the disk is full")
        carry_out(self, folder, loaded)

    monkeypatch.setattr(units.ShardUnit, "carry_out", fail)
    board = worked(plan)
    assert len(board.done) == len(plan.units) - 2  # the shard of the original, and the record that needs it
    (failure,) = failures_of(plan)
    assert failure["error"] == "RuntimeError: the disk is full" and "Traceback" in "\n".join(failure["log"])
    assert f"FAILED: {victim.title}: RuntimeError: the disk is full" in failure_text(failure)
    assert gather(board) == [] and plan.folder.results_path.read_text() == ""
    assert "FAILED" in status_text(status(plan))

    monkeypatch.undo()
    again = worked(plan)
    assert len(again.done) == len(plan.units) and failures_of(plan) == []


def test_other_real_images_make_another_record(finished, planned, pictures, tmp_path):
    """Shards do not depend on them, so nothing but the record itself can tell."""
    assert all(unit.is_done(finished.folder) for unit in finished.units.values())
    fewer = Path(shutil.copytree(pictures, tmp_path / "fewer"))
    next(path for path in sorted(fewer.rglob("*")) if path.is_file()).unlink()
    plan = planned(reference=str(fewer))
    assert all(unit.is_done(plan.folder) for unit in plan.of_kind("shard"))
    assert not any(unit.is_done(plan.folder) for unit in plan.of_kind("record"))
    planned()  # the jobs file of the other tests


def test_an_attack_is_part_of_the_results(finished, planned, worked, monkeypatch):
    monkeypatch.setitem(Budget.__init__.__kwdefaults__, "num_images", 6)
    plan = planned(probes=[{"names": ["unconditional_mass"], "seeds": [1]}])
    board = worked(plan)
    assert len(plan.of_kind("probe")) == 1 and len(board.done) == len(plan.units)
    (table,) = gather(board)
    lines = [json.loads(line) for line in plan.folder.results_path.read_text().splitlines()]
    assert [sorted(line["probes"]) for line in lines] == [[], ["unconditional_mass"]]
    assert [name for name, _ in table.rows] == ["original", "gradient_ascent"]
    assert [len(cell.values) for _, cells in table.rows for cell in cells] == [1, 1, 1, 2, 2, 2]


def test_attacks_are_counted_and_made_on_every_erased_class(planned, worked, judged_model, pictures, monkeypatch):
    monkeypatch.setitem(Budget.__init__.__kwdefaults__, "num_images", 6)
    runs = {"model": judged_model, "methods": ["embedding_reset"], "classes": ["one", ["three", "four"]],
            "data": pictures}  # fmt: skip
    plan = planned("several", runs=[runs], probes=[{"names": ["unconditional_mass"]}])
    one, two = sorted(plan.of_kind("probe"), key=lambda unit: unit.rows)
    assert one.rows * 7 == two.rows * 4  # three subjects of each class and the control
    gather(worked(plan))
    lines = [json.loads(line) for line in plan.folder.results_path.read_text().splitlines()]
    (classes,) = [line["by_class"]["unconditional_mass"] for line in lines if "by_class" in line]
    assert list(classes) == ["3", "4"]

    # One that was made on the first class alone is not done.
    path = RunDir(two.run).results_path
    record = read_record(path)
    del record["by_class"]["unconditional_mass"]
    write_record(record, path)
    assert one.is_done(plan.folder) and not two.is_done(plan.folder)


def test_models_that_are_there_are_scored_like_those_that_are_made(planned, worked, finished, pictures):
    given = planned("given", runs=[], models=[{"path": "batch/runs/*"}])
    worked(given)
    assert not given.of_kind("run")
    assert measured(given) == measured(finished)


def test_a_class_that_was_erased_before_is_scored_by_itself(finished, planned, worked, pictures, monkeypatch):
    source = finished.subjects[0].source
    runs = {"model": source, "methods": ["embedding_reset"], "classes": ["five"], "data": pictures}
    plan = planned("second", runs=[runs])
    worked(plan)
    (unit,) = plan.of_kind("record")
    record = read_record(unit.path(plan.folder))
    monkeypatch.setitem(evaluation.evaluate.__kwdefaults__, "batch_size", 3)
    alone = evaluate(unit.asked.model, protocol=unit.asked.protocol, reference=pictures, progress=False)
    assert {key: record[key] for key in alone} == alone and list(record["earlier"]) == ["3"]


def test_images_are_kept_where_they_are_wanted(finished, planned, worked):
    assert not any(unit.is_done(finished.folder) for unit in planned(keep_images=True).of_kind("shard"))
    plan = planned("pictured", seeds=(0,), keep_images=True)
    worked(plan)
    shards = [read_shard(unit.path(plan.folder)) for unit in plan.of_kind("shard")]
    assert [len(shard.images) for shard in shards[:4]] == [6, 6, 6, 3]
