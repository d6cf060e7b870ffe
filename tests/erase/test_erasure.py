"""Erasures of a tiny model from start to end: workspaces, masks, kills, previews, early stops."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erase.checkpoint import checkpoint_step
from erase.configure import method_of
from erase.erasure import prepare, run_erasure
from erase.method import method_names
from erase.optimizers import PhaseStepper
from pipelines.embedding import label_table_name
from pipelines.errors import DivergedError, UsageError
from pipelines.generate import generate_all
from pipelines.sampler import SamplerSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two_classes(tmp_path):
    """A folder with three pictures each of zero and one."""
    for name in ("zero", "one"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return str(tmp_path / "images")


@pytest.fixture
def prepared(configured, loaded_dit, erase_cache, quick_posterior):
    """``prepared("sfron", data=...)``: the workspace of a request, and the needs of its method."""

    def make(name, *classes, data=None):
        config = configured(name, *classes, data=data)
        method, model = method_of(config), copy.deepcopy(loaded_dit)
        return prepare(model, config, method, cache_dir=erase_cache, work_dir=None, progress=False), method.needs

    return make


@pytest.mark.parametrize("name", method_names())
def test_a_workspace_has_what_its_method_needs_and_no_more(prepared, name):
    workspace, needs = prepared(name, "three", 8)
    parts = {"reference_model": workspace.reference, "posterior": workspace.posterior,
             "forget_fisher": workspace.forget_fisher, "data_fisher": workspace.data_fisher}  # fmt: skip
    assert {part for part, value in parts.items() if value is not None} == needs - {"replay"}
    assert workspace.forget.class_labels.unique().tolist() == [3, 8] and len(workspace.forget) == 8
    assert workspace.retain.class_labels.unique().tolist() == workspace.retained_classes and len(workspace.retain) == 32

    # Each Fisher diagonal is that of its own images: only their labels have evidence.
    table = label_table_name(workspace.model.transformer)
    for fisher, side in ((workspace.forget_fisher, {3, 8}), (workspace.data_fisher, set(range(10)))):
        rows = set() if fisher is None else set(fisher[table].sum(1).nonzero()[:, 0].tolist())
        assert rows <= side and (len(rows) > 1 or fisher is None)


def test_replay_takes_the_place_of_retained_pictures(prepared, two_classes):
    """Selective Amnesia sees no real picture of a retained class; the others do."""
    workspace, _ = prepared("selective_amnesia", "zero", data=two_classes)
    assert len(workspace.forget) == 3 and len(workspace.retain) == 36 and workspace.retain.std.max() == 0
    workspace, _ = prepared("esd", "zero", data=two_classes)
    assert len(workspace.retain) == 3 and workspace.retain.class_labels.unique().tolist() == [1]
    assert workspace.retain.mean.shape[1] == 2  # mirrored copies of pictures, none of samples


def weights_of(model):
    """Copies of the weights by name."""
    return {name: each.detach().clone() for name, each in model.transformer.named_parameters()}


def same(left, right):
    """Whether two sets of weights are the same bits."""
    return left.keys() == right.keys() and all(
        torch.equal(left[name].view(torch.int32), right[name].view(torch.int32)) for name in left
    )


def test_the_original_comes_back_untouched(configured, loaded_dit, erase_cache):
    for name in ("esd", "gradient_ascent", "embedding_reset"):  # with a reference model, without one, without steps
        steps = {"steps": 2} if name != "embedding_reset" else {}
        erased = run_erasure(configured(name, **steps), cache_dir=erase_cache)
        assert same(weights_of(erased.original), weights_of(loaded_dit))
        assert not same(weights_of(erased.model), weights_of(loaded_dit))
        assert erased.model is not erased.original


@pytest.fixture
def forget_steps(monkeypatch):
    """The masks and the weights before and after every optimizer step, with its side."""
    steps, step = [], PhaseStepper.step

    def recorded(stepper, side, gradients, **arguments):
        before = [each.detach().clone() for each in stepper.parameters]
        moved = step(stepper, side, gradients, **arguments)
        steps.append((side, stepper.masks[side], before, [each.detach().clone() for each in stepper.parameters]))
        return moved

    monkeypatch.setattr(PhaseStepper, "step", recorded)
    return steps


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizers", ["shared", "dual"])
@pytest.mark.parametrize("method", ["sfron", "salun"])
def test_masks_are_hard_in_a_real_run(configured, erase_cache, forget_steps, method, optimizers, decay):
    rates = {"forget_learning_rate": 1e-3, "retain_learning_rate": 1e-3}
    config = configured(method, steps=4, retain_steps=2, optimizers=optimizers, weight_decay=decay, **rates)
    erased = run_erasure(config, cache_dir=erase_cache)
    assert [side for side, *_ in forget_steps] == ["forget", "retain", "retain"] * 4
    moved_outside = {"forget": 0, "retain": 0}
    for side, mask, before, after in forget_steps:
        outside = [torch.ones_like(each).bool() for each in before] if mask is None else [each == 0 for each in mask]
        changed = [one.view(torch.int32) != two.view(torch.int32) for one, two in zip(before, after, strict=True)]
        moved_outside[side] += sum(int((moved & out).sum()) for moved, out in zip(changed, outside, strict=True))
        assert sum(int((moved & ~out).sum()) for moved, out in zip(changed, outside, strict=True)) > 0 or mask is None
    assert moved_outside["forget"] == 0
    assert (moved_outside["retain"] == 0) == (method == "salun")  # SFR-on repairs in all weights, SalUn masks both

    inside = sum(int(each.sum()) for each in erased.masks.forget.values())
    total = sum(each.numel() for each in erased.masks.forget.values())
    assert 0.05 < inside / total < 0.9
    if method == "salun":
        original, final = weights_of(erased.original), weights_of(erased.model)
        assert all(torch.equal(final[name][~mask], original[name][~mask]) for name, mask in erased.masks.forget.items())


def test_salun_as_published_stays_within_its_mask(configured, erase_cache):
    config = configured("salun", preset="paper", steps=4)
    erased = run_erasure(config, cache_dir=erase_cache)
    original, final = weights_of(erased.original), weights_of(erased.model)
    assert all(torch.equal(final[name][~mask], original[name][~mask]) for name, mask in erased.masks.forget.items())
    assert not same(original, final)


KILLED = {"steps": 40, "checkpoint_every": 3, "log_every": 1, "robust": True, "robust_steps": 2,
          "average_half_life": 8.0, "weight_decay": 0.01}  # fmt: skip
PROCESS = """
import json, sys, time
from pathlib import Path
import torch
from erase.config import erasure_from_dict
from erase.erasure import run_erasure
torch.set_num_threads(1)
config, cache, path = erasure_from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
run_erasure(config, cache_dir=cache, checkpoint_path=path, log=lambda line: time.sleep(0.2))
path.with_name("finished").touch()
"""


def test_a_killed_erasure_ends_with_the_same_bits(configured, erase_cache, tmp_path):
    config, path = configured("sfron", **KILLED), tmp_path / "checkpoint" / "last.safetensors"
    all_lines, lines = [], []
    expected = run_erasure(config, cache_dir=erase_cache, log=all_lines.append)

    command = [sys.executable, "-c", PROCESS, json.dumps(config.as_dict()), str(erase_cache), str(path)]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while checkpoint_step(path, config_hash=config.hash) < 6 and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not path.with_name("finished").exists()

    first = checkpoint_step(path, config_hash=config.hash)
    resumed = run_erasure(config, cache_dir=erase_cache, checkpoint_path=path, log=lines.append)
    assert 6 <= first < 40 and resumed.loop.resumed_from == first
    assert same(weights_of(resumed.model), weights_of(expected.model))
    timeless = [{key: value for key, value in line.items() if key != "seconds"} for line in all_lines + lines]
    assert timeless[40:] == timeless[first:40]


def test_previews_and_what_they_draw_change_nothing(configured, erase_cache):
    shown = []

    def preview(step, model):
        torch.manual_seed(step)
        torch.randn(10)
        shown.append((step, generate_all(model, [(3, 0), (4, 1)], SamplerSettings(num_inference_steps=2))))

    plain = run_erasure(configured("relabel", steps=6), cache_dir=erase_cache)
    watched = configured("relabel", steps=6, preview_every=2, log_every=1)
    seen = run_erasure(watched, cache_dir=erase_cache, preview=preview)
    assert [step for step, _ in shown] == [0, 2, 4, 6] and not torch.equal(shown[0][1], shown[3][1])
    assert same(weights_of(plain.model), weights_of(seen.model))


def test_an_early_stop_scores_the_model_that_is_being_erased(configured, erase_cache):
    scored, accuracies = [], iter([(0.9, 0.9), (0.0, 0.9), (0.0, 0.5)])

    def scorer(model):
        scored.append((model, weights_of(model)))
        return dict(zip(("forget_accuracy", "retain_accuracy"), next(accuracies), strict=True))

    config = configured("relabel", steps=20, stop_below=0.1, stop_every=2)
    erased = run_erasure(config, cache_dir=erase_cache, scorer=scorer)
    assert erased.loop.stopped_early and (erased.loop.steps, erased.loop.weights_step) == (6, 4)
    assert all(model is erased.model for model, _ in scored)
    assert same(weights_of(erased.model), scored[1][1])


def test_a_run_that_diverges_says_which_knob_to_lower(configured, erase_cache):
    config = configured("gradient_ascent", steps=30, forget_learning_rate=0.5, divergence_factor=1.5, log_every=1)
    with pytest.raises(DivergedError, match="lower --forget-learning-rate"):
        run_erasure(config, cache_dir=erase_cache)


def test_data_without_a_class_is_refused(configured, two_classes, tmp_path):
    with pytest.raises(UsageError, match="images holds no image of the forget classes"):
        run_erasure(configured("esd", "three", data=two_classes, steps=1))
    with pytest.raises(UsageError, match="images holds no image of the retain classes"):
        run_erasure(configured("esd", "zero", "one", data=two_classes, steps=1))
    erased = run_erasure(configured("esd", "zero", data=two_classes, steps=1), cache_dir=tmp_path / "cache")
    assert erased.loop.steps == 1 and len(list((tmp_path / "cache").iterdir())) == 1


def distance(left, right):
    """Euclidean distance between two sets of weights."""
    return torch.cat([(left[name] - right[name]).flatten() for name in left]).norm()


def test_checkpointed_activations_give_the_same_weights_but_for_rounding(configured, erase_cache):
    plain = run_erasure(configured("gradient_ascent", steps=3), cache_dir=erase_cache)
    again = run_erasure(configured("gradient_ascent", steps=3, gradient_checkpointing=True), cache_dir=erase_cache)
    assert again.model.transformer.gradient_checkpointing and not plain.model.transformer.gradient_checkpointing
    left, right, start = (weights_of(each) for each in (plain.model, again.model, plain.original))
    assert distance(left, right) < 0.01 * distance(left, start)


def test_bf16_is_another_arithmetic_of_the_same_run(configured, erase_cache):
    plain = run_erasure(configured("gradient_ascent", steps=3), cache_dir=erase_cache)
    low = run_erasure(configured("gradient_ascent", steps=3, precision="bf16"), cache_dir=erase_cache)
    left, right, start = (weights_of(each) for each in (plain.model, low.model, plain.original))
    assert not same(left, right) and all(each.dtype == torch.float32 for each in right.values())
    assert 0 < distance(left, right) < 0.3 * distance(left, start)


def test_a_sample_of_the_data_is_the_retain_set_and_the_class_is_whole(prepared, two_classes, configured, loaded_dit):
    config = configured("esd", "zero", data=two_classes, retain_images=2)
    workspace = prepare(
        copy.deepcopy(loaded_dit), config, method_of(config), cache_dir=None, work_dir=None, progress=False
    )
    assert len(workspace.forget) == 3  # all of zero
    assert len(workspace.retain) == 1 and workspace.retain.class_labels.tolist() == [1]  # two balanced over two
    with pytest.raises(UsageError, match="--retain-images 2 has no effect: the retain set is replay"):
        configured("esd", retain_images=2)
