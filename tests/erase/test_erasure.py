"""Requests resolved into configurations, and erasures of a tiny model from start to end."""

import json
import os
import shutil
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
from erase.config import EngineConfig
from erase.erasure import configure, method_of, run_erasure
from erase.methods.sfron import SFRon
from erase.optimizers import PhaseStepper
from pipelines.errors import DivergedError, MissingError, UsageError
from pipelines.generate import generate_all
from pipelines.sampler import SamplerSettings

ROOT = Path(__file__).parents[2]
SMALL = {"forget_batch_size": 8, "retain_batch_size": 8, "replay_per_class": 4, "fisher_samples": 6}


@pytest.fixture
def configured(tiny_folder):
    """``configured("sfron", steps=3)``: a request to erase three from the tiny model."""

    def make(method="sfron", *classes, preset="default", data=None, **options):
        return configure(
            str(tiny_folder),
            classes or ["three"],
            method=method,
            preset=preset,
            data=data,
            options={**SMALL, **options},
        )

    return make


@pytest.mark.parametrize(
    ("classes", "found"),
    [(["three"], (3,)), ([3], (3,)), (["3"], (3,)), (["Three", 8, "3"], (3, 8)), (["nine", "zero"], (9, 0))],
)
def test_classes_are_resolved_once_each(configured, classes, found):
    assert configured("esd", *classes).forget_classes == found


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["elephant"], "elephant"),
        (["thre"], "three"),  # the close spelling is offered
        ([10], "null"),
        (["null"], "null"),
        ([11], "out of range"),
        ([True], "bool"),
        (list(range(10)), "every class of the model was named: at least one must be retained"),
    ],
)
def test_classes_that_cannot_be_erased_are_refused(configured, classes, words):
    with pytest.raises(UsageError, match=words):
        configured("esd", *classes)


def test_no_class_is_no_request(tiny_folder):
    with pytest.raises(UsageError, match="no class to erase was named"):
        configure(str(tiny_folder), [])


def test_unknown_words_list_what_there_is(configured, tiny_folder, tmp_path):
    with pytest.raises(UsageError, match=r"--method 'scrub' is not one of .*sfron"):
        configured("scrub")
    with pytest.raises(UsageError, match="--preset 'papers' is not one of default, paper"):
        configured(preset="papers")
    with pytest.raises(
        UsageError, match=r"--eta is not an option of method esd; .*--negative-guidance, --retain-label"
    ):
        configured("esd", eta=1.0)
    with pytest.raises(UsageError, match="--forget-classes is not an option of method esd"):
        configured("esd", forget_classes=(1,))
    with pytest.raises(UsageError, match="--weight-power 'half' is not a number"):
        configured(weight_power="half")
    with pytest.raises(UsageError, match="--seed 'x' is not a whole number"):
        configured(seed="x")
    with pytest.raises(MissingError, match=r"--data .*nowhere does not exist"):
        configured(data=str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match="neither an embedded model"):
        configure("/no/such/model", ["three"])


def test_a_request_is_checked_without_reading_a_weight(tiny_folder, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = configure(str(folder), ["three"], method="sfron", options={"steps": 3})
    assert config.engine == EngineConfig(steps=3) and config.data == "replay"
    with pytest.raises(MissingError, match="safetensors"):
        run_erasure(config)


def test_options_go_before_the_preset_and_the_preset_before_defaults(configured, monkeypatch):
    own = {"steps": 7, "retain_steps": 3, "forget_batch_size": 9, "mask_threshold": 2.0, "fisher_samples": 50}
    monkeypatch.setattr(SFRon, "defaults", own)
    monkeypatch.setitem(SMALL, "fisher_samples", 6)
    default = configured()
    assert (default.engine.steps, default.engine.retain_steps, default.engine.optimizers) == (7, 3, "dual")
    assert (default.engine.forget_batch_size, default.fisher_samples) == (8, 6)  # given
    assert default.method_options["mask_threshold"] == 2.0

    monkeypatch.delitem(SMALL, "fisher_samples")
    paper = configured(preset="paper", steps=11, weight_power=0.25)
    assert (paper.engine.steps, paper.engine.retain_steps, paper.fisher_samples) == (11, 3, 2000)
    assert (paper.engine.optimizers, paper.engine.forget_weight) == ("shared", 1e-3)
    assert (paper.method_options["weight_power"], paper.method_options["forget_vlb"]) == (0.25, "full")
    assert paper.engine.log_every == EngineConfig().log_every and configured().fisher_samples == 50
    assert method_of(paper) == SFRon(weight_power=0.25, mask_threshold=2.0, forget_vlb="full", forget_label_dropout=0.1)


def test_the_configuration_is_complete(configured):
    """Defaults are written out: a later default cannot change what a saved run was."""
    config = configured("salun", seed=5)
    assert config.method_options == {"retain_label_dropout": 0.1, "mask_fraction": 0.5, "teacher": "current"}
    assert (config.seed, config.replay_per_class, config.method) == (5, 4, "salun")


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
    assert 0.05 < inside / total < 0.6
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
    assert [step for step, _ in shown] == [2, 4, 6] and not torch.equal(shown[0][1], shown[2][1])
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


def test_data_without_a_class_is_refused(configured, tmp_path):
    """A folder of pictures stands in for replay; a side without one is named."""
    for name in ("zero", "one"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    data = str(tmp_path / "images")
    with pytest.raises(UsageError, match="images holds no image of the forget classes"):
        run_erasure(configured("esd", "three", data=data, steps=1))
    with pytest.raises(UsageError, match="images holds no image of the retain classes"):
        run_erasure(configured("esd", "zero", "one", data=data, steps=1))
    erased = run_erasure(configured("esd", "zero", data=data, steps=1), cache_dir=tmp_path / "cache")
    assert erased.loop.steps == 1 and len(list((tmp_path / "cache").iterdir())) == 1
