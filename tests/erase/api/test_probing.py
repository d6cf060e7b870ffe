"""Probing a scored run: every attack beside its controls, nothing attacked twice, nothing lost, gates."""

import copy
import dataclasses
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from erase.api import gating, probing, retrained
from erase.api.gating import check_floor, hold_gates
from erase.api.probing import command_of, probe
from erase.api.retrained import check_retrained
from erase.api.scoring import add_command
from erase.checkpoint import Checkpoint, save_checkpoint
from erase.cli.probe import probe as command
from erase.config import ErasureConfig
from erase.rundir import RunDir
from eval.evaluate import write_record
from eval.gates import parse_gates
from eval.probe import AMOUNTS, probe_names
from pipelines.errors import GateFailedError, MissingError, UsageError
from pipelines.files import read_json


def test_every_probe_on_every_subject_and_nothing_twice(scored, judged_model, monkeypatch):
    record = probe(scored.run_dir, retrained=judged_model, progress=False)
    assert set(record["probes"]) == set(probe_names())
    subjects = ["original", "embedding_reset", "retrained", "erased", "control"]
    for rows in record["probes"].values():
        assert list(rows) == subjects
        assert {rows[who]["detail"]["class_label"] for who in subjects[:4]} == {3}
        assert rows["control"]["detail"]["class_label"] != 3
    assert record["recovery"]["embedding_restore"]["floor"] is not None
    assert read_json(scored.run_dir / "eval" / "results.json")["probes"] == record["probes"]
    report = (scored.run_dir / "report.html").read_text()
    assert "label mixing" in report and "Retrained without the class" in report and "Gap to retrain" in report
    assert f"erase probe {scored.run_dir} --retrained {judged_model}" in report

    # This "retrained" model is the original, so that its scores are known.
    assert record["retrained"] == record["original"]

    # A second time every outcome is read.
    monkeypatch.setattr(probing, "load_probe", lambda name: None)
    monkeypatch.setattr(retrained, "score_model", None)
    again = probe(scored.run_dir, retrained=judged_model, progress=False)
    assert again["probes"] == record["probes"] and again["recovery"] == record["recovery"]


def test_one_probe_more_leaves_the_others_as_they_are(scored, judged_model):
    first = probe(scored.run_dir, probes=["relearning"], retrained=judged_model, progress=False)
    assert set(first["probes"]) == {"embedding_restore", "relearning"}
    assert set(first["attacks"]) == {"relearning"}  # the row probe is the run's own: it is not made again
    assert first["probes"]["embedding_restore"] == scored.scores["probes"]["embedding_restore"]
    second = probe(scored.run_dir, probes=["unconditional_mass"], progress=False)
    assert set(second["probes"]) == {"embedding_restore", "relearning", "unconditional_mass"}
    assert second["probes"]["relearning"] == first["probes"]["relearning"]  # with its floor
    assert second["recovery"]["relearning"]["floor"] is not None
    assert "relearning" in (scored.run_dir / "report.html").read_text()


def test_each_of_several_erased_classes_is_attacked(scored_two):
    assert scored_two.scores["by_class"].keys() == {"embedding_restore"} == scored_two.scores["probes"].keys()
    record = probe(scored_two.run_dir, probes=["label_mixing"], progress=False)
    by_class = record["by_class"]["label_mixing"]
    assert list(by_class) == ["3", "4"] and record["probes"]["label_mixing"] in by_class.values()
    labels = {label: {rows[who]["detail"]["class_label"] for who in rows} for label, rows in by_class.items()}
    (control,) = labels["3"] & labels["4"]
    assert labels == {"3": {3, control}, "4": {4, control}} and control not in (3, 4)
    report = (scored_two.run_dir / "report.html").read_text()
    assert "Are “three” and “four” gone, or only avoided?" in report and ", of which most came back; " in report
    told = dataclasses.replace(scored_two, scores=record).text()
    assert re.search(r"after label mixing \((three|four)\): original", told)
    printed = CliRunner().invoke(command, [str(scored_two.run_dir), "label_mixing", "--json"], catch_exceptions=False)
    assert json.loads(printed.stdout)["by_class"]["label_mixing"] == by_class


def test_a_gate_attacks_every_class_that_an_outcome_lacks(scored_two):
    """As in the record of a run that was attacked for its first class alone."""
    record = copy.deepcopy(scored_two.scores)
    reported = str(record["probes"]["embedding_restore"]["erased"]["detail"]["class_label"])
    (other,) = {"3", "4"} - {reported}
    lacking = {**record, "by_class": {}}
    write_record(lacking, scored_two.run_dir / "eval" / "results.json")
    gates = parse_gates("recovery.embedding_restore<=1")
    with suppress(GateFailedError):  # the model draws no class that is known
        hold_gates(dataclasses.replace(scored_two, scores=lacking), gates, device="auto", progress=False)
    found = read_json(scored_two.run_dir / "eval" / "results.json")["by_class"]["embedding_restore"]
    assert found[other]["erased"]["value"] == record["by_class"]["embedding_restore"][other]["erased"]["value"]


def test_a_floor_and_the_attackers_images_have_to_fit_every_class(scored_two, configured, pictures, tmp_path):
    config = dataclasses.replace(configured("esd"), forget_classes=(3, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrained, "read_provenance", lambda source: {"without": ["three"]})
        with pytest.raises(UsageError, match=r"trained without three, so that it has seen four$"):
            check_retrained(config.model, config)
        patch.setattr(retrained, "read_provenance", lambda source: {"without": ["four", "three", "one"]})
        check_retrained(config.model, config)
    fewer = Path(shutil.copytree(pictures, tmp_path / "fewer"))
    shutil.rmtree(fewer / "four")
    with pytest.raises(UsageError, match=r"^--data \S+fewer holds no image of four, which an attacker is to have$"):
        probe(scored_two.run_dir, probes=["label_mixing"], data=str(fewer), progress=False)


def test_an_attacker_draws_by_the_seed_that_is_given(scored):
    """An attack that draws its images and batches: by another seed it is another one, and the record says which."""
    records = [probe(scored.run_dir, probes=["relearning"], seed=seed, progress=False) for seed in (None, 0, 1)]
    of_run, same, other = ({"seed": each["attacks"]["relearning"]["seed"]} | each["probes"] for each in records)
    assert (of_run["seed"], other["seed"]) == (0, 1) and of_run == same
    kept = [each["attacks"]["relearning"]["kept"] for each in records]
    assert kept[0] == kept[1] and not set(kept[0].values()) & set(kept[2].values())


def test_an_outcome_belongs_to_weights_budget_and_the_code_of_the_attack(scored, monkeypatch):
    probe(scored.run_dir, probes=["unconditional_mass"], progress=False)
    kept = set((probing.probe_dir()).iterdir())
    monkeypatch.setitem(AMOUNTS, "quick", dataclasses.replace(AMOUNTS["quick"], retained_images=7))
    probe(scored.run_dir, probes=["unconditional_mass"], progress=False)
    new = set(probing.probe_dir().iterdir()) - kept
    assert len(new) == 3  # original, erased and control: this erasure is the row reset itself

    # An outcome of an attack as it was written yesterday does not pass for one of today's.
    monkeypatch.setattr(probing, "file_digest", lambda path: f"other code in {path.name}")
    probe(scored.run_dir, probes=["unconditional_mass"], progress=False)
    assert len(set(probing.probe_dir().iterdir()) - kept - new) == 3


def test_gates_fail_by_name_and_run_the_probes_that_they_need(scored, monkeypatch):
    held = hold_gates(scored, parse_gates("retain_drop<=1, retain_accuracy>=0"), device="auto", progress=False)
    assert [sentence.split(" is ")[0] for sentence in held] == [
        "retain_drop<=1 holds: retain_drop", "retain_accuracy>=0 holds: retain_accuracy",
    ]  # fmt: skip
    with pytest.raises(GateFailedError, match=r"^retain_accuracy>=2 fails: retain_accuracy is "):
        hold_gates(scored, parse_gates("retain_accuracy>=2, retain_drop<=1"), device="auto", progress=False)
    assert "1 of 2 gates failed." in (scored.run_dir / "report.html").read_text()
    with pytest.raises(GateFailedError, match="which may take a model"):  # the model draws no class that is known
        hold_gates(scored, parse_gates("recovery.unconditional_mass<=1"), device="auto", progress=False)
    record = read_json(scored.run_dir / "eval" / "results.json")
    assert "unconditional_mass" in record["probes"] and "label_mixing" not in record["probes"]
    assert "The gate failed." in (scored.run_dir / "report.html").read_text()

    # What the report says already is not drawn again, and a run without gates leaves it alone.
    assert record["gates"] == ["recovery.unconditional_mass<=1"]
    again = dataclasses.replace(scored, scores=record)
    hold_gates(again, parse_gates("retain_drop<=1"), device="auto", progress=False)
    assert "The gate holds." in (scored.run_dir / "report.html").read_text()
    monkeypatch.setattr(gating, "redraw", None)
    hold_gates(again, parse_gates("retain_drop<=1"), device="auto", progress=False)
    hold_gates(again, [], device="auto", progress=False)


def test_a_gate_is_measured_from_a_floor_where_there_is_one(scored, judged_model):
    """The "retrained" model is the original here: nothing lies between floor and original, which holds no gate."""
    gates = parse_gates("recovery.embedding_restore<=2")
    with pytest.raises(GateFailedError, match=r"recovery\.embedding_restore has no value"):
        hold_gates(scored, gates, retrained=judged_model, device="auto", progress=False)
    record = read_json(scored.run_dir / "eval" / "results.json")
    found = record["recovery"]["embedding_restore"]
    assert list(record["attacks"]) == ["embedding_restore"] and found["floor"] == found["original"] is not None

    # What the record has beside this floor counts as it is, whatever its budget.
    again, monkeypatched = dataclasses.replace(scored, scores=record), pytest.MonkeyPatch()
    with monkeypatched.context() as patch, pytest.raises(GateFailedError):
        patch.setattr(gating, "probe", None)
        hold_gates(again, gates, retrained=judged_model, device="auto", progress=False)


def test_a_floor_that_is_none_is_refused_before_anything_is_made(configured, judged_model, tmp_path):
    config, gates = configured("esd"), parse_gates("recovery.relearning<=1")
    check_floor(gates, judged_model, config)
    check_floor(parse_gates("retain_drop<=1"), None, config)
    with pytest.raises(UsageError, match=r"^--retrained floor has no effect without a bound on the recovery"):
        check_floor(parse_gates("retain_drop<=1"), "floor", config)
    with pytest.raises(MissingError, match=r"^--retrained \S+nowhere is neither"):
        check_floor(gates, str(tmp_path / "nowhere"), config)
    of_xl = ErasureConfig(model="facebook/DiT-XL-2-256", forget_classes=(207,), method="esd")
    with pytest.raises(UsageError, match=r"^--retrained digits has .* sample_size 4, and \S+ .* sample_size 32$"):
        check_floor(gates, "digits", of_xl)
    of_digits = ErasureConfig(model="digits", forget_classes=(3,), method="esd")
    with pytest.raises(
        UsageError, match=r"^--retrained digits was trained without no class, so that it has seen three$"
    ):
        check_floor(gates, "digits", of_digits)


def test_what_cannot_be_probed_is_refused_before_weights_are_read(scored, tmp_path, judged_model, monkeypatch):
    monkeypatch.setattr(probing, "load_original", None)
    with pytest.raises(UsageError, match="--budget 'vast' is not one of quick, full"):
        probe(scored.run_dir, budget="vast")
    with pytest.raises(UsageError, match="probe 'magic' is not one of"):
        probe(scored.run_dir, probes=["magic"])
    with pytest.raises(MissingError, match="nowhere does not exist"):
        probe(scored.run_dir, data="nowhere")
    with pytest.raises(MissingError, match="none does not exist; a run directory is needed"):
        probe(tmp_path / "none")
    (scored.run_dir / "eval" / "results.json").unlink()
    with pytest.raises(MissingError, match="has no scores"):
        probe(scored.run_dir)


def test_an_unfinished_run_is_refused_with_its_step_and_its_command(tmp_path):
    folder, config = RunDir(tmp_path / "run"), ErasureConfig(model="tiny", forget_classes=(3,), method="sfron")
    folder.claim(config, command="erase run three")
    folder.set_status("interrupted")
    save_checkpoint(
        folder.checkpoint_path,
        Checkpoint(step=120, scalars={}, tensors={"a/b": torch.zeros(1)}),
        config_hash=config.hash,
    )
    with pytest.raises(MissingError, match=r"run is not finished, it stands at step 120 of 300: `erase run three` fin"):
        probe(folder.path)
    folder.claim(config)
    with pytest.raises(MissingError, match=r"120 of 300: the command that began it finishes it$"):
        probe(folder.path)
    folder.model_dir.mkdir()
    (folder.model_dir / "model_index.json").write_text("{}")
    with pytest.raises(MissingError, match=r"is erased and not scored yet: "):
        probe(folder.path)


def test_commands_are_told_once_each():
    assert command_of("runs/a b", ["relearning"], budget="full", data=None, retrained="floor", seed=0) == [
        "erase", "probe", "runs/a b", "relearning", "--budget", "full", "--retrained", "floor", "--seed", "0",
    ]  # fmt: skip
    record = {}
    for words in (["erase", "probe", "a b"], ["erase", "eval", "x"], ["erase", "probe", "a b"]):
        add_command(record, words)
    assert record["added_by"] == ["erase eval x", "erase probe 'a b'"]
