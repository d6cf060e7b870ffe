"""Evaluating a run again: the sweep goes into its record and report, and a lost report is drawn from the record."""

import dataclasses
import shutil

import pytest
import torch

from erase import api
from erase.api import evaluate, evaluating, run
from erase.rundir import find_scored_run
from eval import sweep as sweeping
from eval.protocol import named
from pipelines.classifier import build_classifier, save_classifier
from pipelines.errors import MissingError, UsageError
from pipelines.files import read_json

PROTOCOL = dataclasses.replace(named("small"), num_inference_steps=2, num_forget_images=4, num_retain_images=18)


@pytest.fixture(scope="module")
def finished(judged_model, pictures, erase_cache, tmp_path_factory):
    """``finished(folder)``: a scored run of the trivial baseline in a folder, copied there if it is new."""

    def make(folder):
        return run(
            judged_model, "three", method="embedding_reset", data=pictures, protocol=PROTOCOL, reference=pictures,
            output_dir=folder, progress=False,
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERASE_CACHE", str(erase_cache))
        first = make(tmp_path_factory.mktemp("finished") / "run").run_dir
        yield lambda folder: make(folder if folder.exists() else shutil.copytree(first, folder))


@pytest.fixture
def scored(finished, tmp_path, monkeypatch):
    """``scored()``: the run of the test; a sweep of it is short."""
    monkeypatch.setattr(sweeping, "SAMPLERS", (("ddim", 2),))
    monkeypatch.setattr(sweeping, "GUIDANCE_SCALES", (1.0, 4.0))
    return lambda: finished(tmp_path / "run")


@pytest.fixture
def swept(scored, pictures):
    """``swept(second_classifier=...)``: the record of the run with its sweep."""
    folder = scored().run_dir
    given = {"protocol": PROTOCOL, "reference": pictures, "progress": False, "sweep": True, "sweep_images": 3}
    return lambda model=folder, **others: evaluate(str(model), **{**given, **others})


def test_a_scored_run_is_swept_without_being_scored_again(scored, swept, pictures, tmp_path, monkeypatch):
    before = read_json(tmp_path / "run" / "eval" / "results.json")
    monkeypatch.setattr(evaluating, "score_models", None)
    record = swept()
    assert [row["condition"] for row in record["sweep"]][1:] == [
        "guidance 4", "ddim, 2 steps", "arithmetic in bf16", "weights in bf16", "weights in int8"]  # fmt: skip
    assert {row["erased"]["forget_accuracy"]["n"] for row in record["sweep"]} == {3}
    words = f"erase eval {tmp_path / 'run'} --sweep --protocol {PROTOCOL.name} --reference {pictures} --sweep-images 3"
    added = {"sweep": record["sweep"], "added_by": [words]}
    assert read_json(tmp_path / "run" / "eval" / "results.json") == record == {**before, **added}
    report = (tmp_path / "run" / "report.html").read_text()
    assert words in report
    assert "Under other conditions" in report and "embedding restore" in report
    assert "erase.run(" in report  # still the call that made the run

    # A second time every row is read, and the run is still finished.
    monkeypatch.setattr(sweeping, "generate", None)
    assert swept() == record and scored().repeated


def test_a_run_without_scores_gets_them_with_report_and_card(judged_model, pictures, scored, tmp_path, monkeypatch):
    unscored = run(
        judged_model, "three", method="embedding_reset", data=pictures, protocol="none", output_dir=tmp_path / "bare",
        progress=False,
    ).run_dir  # fmt: skip
    with pytest.raises(MissingError, match=r"bare has no scores: `erase eval .*bare` gives it some"):
        find_scored_run(unscored)
    record = evaluate(str(unscored), protocol=PROTOCOL, reference=pictures, progress=False)

    # The record is that of a run which was scored at once, but for what made it.
    assert read_json(unscored / "eval" / "results.json") == record
    at_once = read_json(scored().run_dir / "eval" / "results.json")
    made = dict.fromkeys(("command", "added_by", "models"))
    assert {**at_once, **made} == {**record, **made}
    words = f"erase eval {unscored} --protocol {PROTOCOL.name} --reference {pictures}"
    assert record["added_by"] == [words] and words in (unscored / "report.html").read_text()
    assert "forget accuracy" in (unscored / "model" / "README.md").read_text().lower()

    # A scoring that was cut short before its report is drawn to its end, and nothing is scored again.
    card = (unscored / "model" / "README.md").read_text()
    (unscored / "report.html").unlink()
    (unscored / "model" / "README.md").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "score_models", None)
        patch.setattr(evaluating, "score_run", None)
        assert evaluate(str(unscored), protocol=PROTOCOL, reference=pictures, progress=False) == record
    assert (unscored / "report.html").exists() and (unscored / "model" / "README.md").read_text() == card

    # A further evaluation changes nothing in it.
    other = dataclasses.replace(PROTOCOL, num_forget_images=5)
    assert evaluate(str(unscored), protocol=other, reference=pictures, progress=False) != record
    assert read_json(unscored / "eval" / "results.json") == record


def test_a_sweep_that_was_cut_short_keeps_its_rows(swept, tmp_path, monkeypatch):
    def interrupted(*arguments, **given):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(1)
        return generate(*arguments, **given)

    drawn, generate = [], sweeping.generate
    monkeypatch.setattr(sweeping, "generate", interrupted)
    with pytest.raises(api.InterruptedRun, match="stopped while sweeping; repeat the same command to go on"):
        swept()
    assert len(read_json(tmp_path / "run" / "eval" / "results.json")["sweep"]) == 2
    drawn.clear()
    monkeypatch.setattr(sweeping, "generate", lambda *a, **k: [drawn.append(1), generate(*a, **k)][1])
    assert len(swept()["sweep"]) == 6 and len(drawn) == 8  # four rows of two models


def test_a_second_classifier_must_be_another(swept, judged_model, tmp_path):
    torch.manual_seed(1)
    other = build_classifier("test_resnet", num_classes=10, input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    save_classifier(other, tmp_path / "other")
    first, second, *_ = swept(second_classifier=str(tmp_path / "other"))["sweep"]
    assert second["condition"] == "second classifier" and second["classifier"] != first["classifier"]
    assert second["settings"] == first["settings"]
    with pytest.raises(UsageError, match=r"--second-classifier .* is the classifier that scores"):
        swept(second_classifier=judged_model)


def test_a_model_that_is_no_scored_run_is_scored_and_swept(swept, tmp_path):
    before = (tmp_path / "run" / "eval" / "results.json").read_bytes()
    record = swept(tmp_path / "run" / "model")
    assert len(record["sweep"]) == 6 and record["erased"]["forget_accuracy"]["n"] == 4
    assert (tmp_path / "run" / "eval" / "results.json").read_bytes() == before


def test_flags_of_a_sweep_without_one_are_refused_before_anything_is_read():
    for given, match in (
        ({"sweep_images": 7}, r"--sweep-images 7 has no effect without --sweep"),
        ({"second_classifier": "resnet18"}, r"--second-classifier resnet18 has no effect without --sweep"),
        ({"sweep": True, "sweep_images": 0}, r"--sweep-images 0 must be at least 1"),
        ({"sweep": True, "second_classifier": "x"}, r"--second-classifier x is no classifier: name a timm model"),
    ):
        with pytest.raises(UsageError, match=match):
            evaluate("nowhere", **given)


def test_a_report_that_is_gone_is_drawn_from_the_record(scored, tmp_path, monkeypatch):
    folder = scored().run_dir
    results, report = (folder / "eval" / "results.json").read_bytes(), (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    (folder / "samples" / "before.png").unlink()
    monkeypatch.setattr(api, "score_run", None)
    assert scored().repeated
    assert (folder / "report.html").read_text() == report  # the pictures of the probe too
    assert (folder / "samples" / "before.png").exists()
    assert (folder / "eval" / "results.json").read_bytes() == results
