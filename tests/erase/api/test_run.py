"""A run from request to folder: what is kept when it ends well, diverges, or is stopped between its parts."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch

import erase
from erase import api
from erase.api import python_call, request, requesting, run
from erase.api.result import Unscored
from erase.rundir import RunDir
from erase.saliency import density, load_mask
from erase.task import Loss
from pipelines.errors import DivergedError, InterruptedRun, UsageError
from pipelines.files import read_json
from pipelines.model import load

QUICK = {"steps": 4, "forget_batch_size": 8, "retain_batch_size": 8, "replay_per_class": 4}


@pytest.fixture
def go(tiny_folder, tmp_path, erase_cache, monkeypatch, quick_posterior):
    """``go(method="salun", ...)``: an unscored run of the tiny model in ``tmp_path / "run"``."""
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))

    def make(**asked):
        options = {**QUICK, **asked.pop("options", {})}
        asked = {"method": "salun", "protocol": "none", "output_dir": tmp_path / "run", "progress": False, **asked}
        return run(str(tiny_folder), "three", options=options, **asked)

    return make


def status_of(folder):
    """The recorded state of a run."""
    return read_json(folder / "status.json")


def same_weights(left, right):
    """Whether two models have the same bits."""
    pairs = zip(left.transformer.parameters(), right.transformer.parameters(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def test_a_run_leaves_its_model_masks_and_record(go, tmp_path):
    result = go()
    folder = RunDir(tmp_path / "run")
    assert same_weights(load(folder.model_dir), result.model) and folder.state == "complete"
    assert not folder.checkpoint_path.parent.exists() and not folder.last_good_dir.exists()
    assert sorted(path.name for path in folder.masks_dir.iterdir()) == ["forget.safetensors", "retain.safetensors"]
    mask = load_mask(folder.masks_dir / "forget.safetensors")
    assert density(mask) == pytest.approx(0.5, abs=1e-3)

    # Outside the mask nothing moved.
    before, after = (dict(each.transformer.named_parameters()) for each in (result.original, result.model))
    assert all(torch.equal(before[name][~inside], after[name][~inside]) for name, inside in mask.items())
    assert any(not torch.equal(before[name], after[name]) for name in mask)

    # The same call again reads what is there.
    assert isinstance(result.scores, Unscored)
    again = go()
    assert again.repeated and not result.repeated and again.seconds == result.seconds
    assert "nothing was run again" in again.text() and "nothing was run again" not in result.text()
    assert same_weights(again.model, result.model)


def test_a_method_without_masks_writes_none(go, tmp_path):
    go(method="gradient_ascent")
    assert not (tmp_path / "run" / "masks").exists()


def test_a_run_that_diverges_keeps_the_last_good_model(go, tmp_path, tiny_folder, monkeypatch):
    """From step 7 on the forget loss is enormous: the weights of the checkpoint at step 5 are kept."""
    from erase import diffusion_task

    calm = diffusion_task.DiffusionTask.forget_loss
    seen = []

    def wild(task, batch):
        seen.append({name: each.detach().clone() for name, each in task.parameters.items()})
        loss = calm(task, batch)
        return loss if len(seen) < 7 else Loss(loss.objective * torch.nan, loss.denoising)

    monkeypatch.setattr(diffusion_task.DiffusionTask, "forget_loss", wild)
    with pytest.raises(DivergedError, match="the weights of step 5 are kept: lower --forget-learning-rate"):
        go(method="gradient_ascent", options={"steps": 20, "checkpoint_every": 5, "log_every": 5})
    folder = RunDir(tmp_path / "run")
    assert folder.state == "diverged" and "lower --forget-learning-rate" in status_of(folder.path)["reason"]
    assert not folder.model_dir.exists()
    kept = dict(load(folder.last_good_dir).transformer.named_parameters())
    assert all(torch.equal(kept[name], each) for name, each in seen[5].items())  # before the sixth step
    assert not same_weights(load(folder.last_good_dir), load(tiny_folder))


def scoring_is(scoring, monkeypatch):
    """Another function in the place of a run's scoring; the models of these tests have no classifier."""
    monkeypatch.setattr(requesting, "check_scoring", lambda *_, **__: None)
    monkeypatch.setattr(api, "protocol_scorer", lambda *_: None)
    monkeypatch.setattr(api, "score_run", scoring)


def test_a_run_stopped_while_scoring_goes_on_without_erasing_again(go, tmp_path, monkeypatch):
    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    scoring_is(stop, monkeypatch)
    with pytest.raises(InterruptedRun, match="stopped while scoring; repeat the same command to go on") as stopped:
        go(protocol="small")
    assert stopped.value.__cause__ is None and stopped.value.__suppress_context__
    assert status_of(tmp_path / "run")["state"] == "interrupted"

    # The erased model is there; only the scoring is repeated.
    monkeypatch.setattr(api, "run_erasure", None)
    scoring_is(lambda *_, **__: {"scored": True}, monkeypatch)
    assert go(protocol="small").scores == {"scored": True}
    assert status_of(tmp_path / "run")["state"] == "complete"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_while_preparing_is_resumable(go, tmp_path, monkeypatch, kind):
    from erase import erasure

    handler, prepare = signal.getsignal(signal.SIGTERM), erasure.prepare
    monkeypatch.setattr(erasure, "prepare", lambda *_, **__: os.kill(os.getpid(), kind))
    with pytest.raises(InterruptedRun, match="stopped while preparing"):
        go()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert status_of(tmp_path / "run")["state"] == "interrupted"
    monkeypatch.setattr(erasure, "prepare", prepare)
    go()
    assert status_of(tmp_path / "run")["state"] == "complete"


def test_a_run_whose_data_cannot_be_used_leaves_nothing_behind(go, tmp_path):
    junk = tmp_path / "junk.zip"
    junk.write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"junk\.zip"):
        go(data=str(junk))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_call_in_the_report_makes_the_same_run(tiny_folder, tmp_path, preset):
    given = {"steps": 3, "seed": 2}
    asked = request(
        str(tiny_folder), ["three", 8], method="sfron", preset=preset, options=given, protocol="none",
        output_dir=tmp_path / "run",
    )  # fmt: skip
    line = python_call(str(tiny_folder), ["three", 8], asked, preset=preset, given=given)
    repeated = SimpleNamespace(
        run=lambda model, *classes, **given: request(model, classes, output_dir=tmp_path / "b", **given)
    )
    assert eval(line, {"erase": repeated}).config.hash == asked.config.hash
    assert erase.run is run


def test_another_setting_in_the_same_folder_is_refused_both_ways(go, tmp_path):
    """A setting at its default is not written into the identity: the comparison must see it all the same."""
    go()
    with pytest.raises(UsageError, match=r"\(precision differ\)"):
        go(options={"precision": "bf16"})
    go(options={"precision": "bf16"}, output_dir=tmp_path / "other")
    with pytest.raises(UsageError, match=r"\(precision differ\)"):
        go(output_dir=tmp_path / "other")


def test_a_run_that_is_scored_later_was_not_finished_before(go, tmp_path, monkeypatch):
    first = go()
    scoring_is(lambda *_, **__: {"scored": True}, monkeypatch)
    again = go(protocol="small")
    assert not again.repeated and again.seconds >= first.seconds
