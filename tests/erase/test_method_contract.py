"""The contract that every file of ``erase/methods`` is held to; a new method needs no new test here."""

import dataclasses
import hashlib
import importlib
import math
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from erase.config import OWN_OPTIONS, EngineConfig, from_dict
from erase.configure import configure, split_options
from erase.diffusion_task import DiffusionTask
from erase.erasure import run_erasure
from erase.method import NEEDS, Method, method_class, method_names
from pipelines.errors import UsageError

NAMES = method_names()
TRAINING = [name for name in NAMES if method_class(name).trains]
SOURCE = re.compile(r"arXiv \d{4}\.\d{4,5}|\(ours\)|\bbaseline\b|\bthe standard that\b")
SIZES = EngineConfig(forget_batch_size=16, retain_batch_size=16)
QUICK = {"steps": 3, "forget_batch_size": 8, "retain_batch_size": 8, "log_every": 1}
SOME_ARE_DRAWN = 0.55  # a share that shows in a batch of 16


def alternatives(default: Any, hint: Any) -> list[Any]:
    """Values of a field other than its default, some of which must matter or be refused."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != default]
    values = {bool: [not default], int: [1, 2, 7], float: [SOME_ARE_DRAWN, 0.3, 2.5, 0.0]}[hint]
    return [value for value in values if value != default]


def fields_of(kind: type[Method]) -> list[tuple[str, Any, list[Any]]]:
    """Name, default and alternatives of every field."""
    hints = get_type_hints(kind)
    entries = dataclasses.fields(kind)
    return [(entry.name, entry.default, alternatives(entry.default, hints[entry.name])) for entry in entries]


def try_make(kind: type[Method], **options: Any) -> Method | None:
    """The method with some options; None when they are refused."""
    try:
        return kind(**options)
    except UsageError:
        return None


def gradient_bytes(objective: torch.Tensor, task: DiffusionTask) -> list[bytes]:
    """Gradient of an objective in every weight, as bytes."""
    gradients = torch.autograd.grad(objective, list(task.parameters.values()), allow_unused=True)
    return [b"" if each is None else each.numpy().tobytes() for each in gradients]


def behaviour(method: Method, make_workspace) -> str:
    """A digest of everything that the engine sees of a method: needs, masks, losses and gradients of both sides."""
    workspace = make_workspace()
    task = DiffusionTask(workspace=workspace, method=method, engine=SIZES)
    parts = [repr(sorted(method.needs)).encode()]
    for side in ("forget", "retain"):
        loss = getattr(task, f"{side}_loss")(getattr(task, f"{side}_batch")(0, 0))
        parts += [loss.objective.detach().numpy().tobytes(), loss.denoising.numpy().tobytes()]
        parts += gradient_bytes(loss.objective, task)
    for mask in dataclasses.astuple(method.masks(workspace)):
        parts += [b"none"] if mask is None else [each.numpy().tobytes() for each in mask.values()]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_the_file_name_finds_the_class(name):
    kind = method_class(name)
    assert issubclass(kind, Method) and kind.__module__ == f"erase.methods.{name}"
    assert kind.__name__.lower() == name.replace("_", "")
    assert kind.__dataclass_params__.frozen and all(entry.kw_only for entry in dataclasses.fields(kind))


def test_an_unknown_method_lists_the_methods():
    with pytest.raises(UsageError, match=rf"--method 'nowhere' is not one of {', '.join(NAMES)}"):
        method_class("nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_cites_its_source(name):
    text = importlib.import_module(f"erase.methods.{name}").__doc__
    assert SOURCE.search(text), text


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_type_a_default_and_a_line_of_help(name):
    hints = get_type_hints(method_class(name))
    for entry in dataclasses.fields(method_class(name)):
        assert hints[entry.name] in (int, float, bool) or get_origin(hints[entry.name]) is Literal
        assert entry.default is not dataclasses.MISSING
        help_line = entry.metadata["help"]
        assert 10 < len(help_line) < 120 and "\n" not in help_line and not help_line.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_needs_are_known_whatever_the_options(name):
    kind = method_class(name)
    assert kind().needs <= NEEDS.keys()
    for field, _, values in fields_of(kind):
        made = [try_make(kind, **{field: value}) for value in values]
        assert all(method is None or method.needs <= NEEDS.keys() for method in made)


@pytest.mark.parametrize("name", NAMES)
def test_no_option_is_without_effect(name, make_workspace):
    """Each field, changed alone, changes what the engine sees, or the change is refused."""
    kind = method_class(name)
    before = behaviour(kind(), make_workspace) if kind.trains else None
    for field, _, values in fields_of(kind):
        made = [method for value in values if (method := try_make(kind, **{field: value}))]
        if made and not any(behaviour(method, make_workspace) != before for method in made):
            raise AssertionError(f"--{field.replace('_', '-')} changes nothing with {values}")


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_is_refused(name):
    kind = method_class(name)
    for field, default, _ in fields_of(kind):
        wrong = {float: [math.nan, -1.0, "0.5", None], int: [1.5, "3", True], bool: [1, "yes"], str: ["nowhere", 3]}
        for value in wrong[type(default)]:
            with pytest.raises(UsageError, match=f"--{field.replace('_', '-')}"):
                kind(**{field: value})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["defaults", "paper"])
def test_presets_name_existing_fields_and_fit_together(name, which):
    kind = method_class(name)
    settings = {key: value for key, value in getattr(kind, which).items() if key not in OWN_OPTIONS}
    engine, options = split_options(kind, name, settings)
    assert from_dict(EngineConfig, engine) and from_dict(kind, options).needs <= NEEDS.keys()
    engine_defaults = {entry.name: entry.default for entry in dataclasses.fields(EngineConfig)}
    assert all(value != engine_defaults[key] for key, value in engine.items()), "a preset repeats a default"


@pytest.fixture
def task_of(make_workspace):
    """The default method of a name as a task whose weights have left the reference."""

    def make(name: str) -> DiffusionTask:
        return DiffusionTask(workspace=make_workspace(), method=method_class(name)(), engine=SIZES)

    return make


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("side", ["forget", "retain"])
def test_losses_are_finite_scalars_with_a_gradient(name, side, task_of):
    task = task_of(name)
    loss = getattr(task, f"{side}_loss")(getattr(task, f"{side}_batch")(0, 0))
    assert loss.objective.shape == loss.denoising.shape == ()
    assert loss.objective.isfinite() and loss.denoising.isfinite() and not loss.denoising.requires_grad
    gradients = torch.autograd.grad(loss.objective, list(task.parameters.values()), allow_unused=True)
    norms = [each.norm() for each in gradients if each is not None]
    assert all(norm.isfinite() for norm in norms) and max(norms) > 0


@pytest.mark.parametrize("name", TRAINING)
def test_losses_are_pure_functions_of_weights_and_batch(name, task_of):
    """Asked twice, bit for bit; nothing comes from, or goes to, the global generator."""
    task = task_of(name)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    batches = {side: getattr(task, f"{side}_batch")(2, 1) for side in ("forget", "retain")}
    first = [getattr(task, f"{side}_loss")(batch) for side, batch in batches.items()]
    assert torch.equal(torch.random.get_rng_state(), state)

    torch.manual_seed(2)
    for other in (0, 5):
        task.forget_loss(task.forget_batch(other, 0))
    again = [getattr(task, f"{side}_loss")(batch) for side, batch in batches.items()]
    redrawn = [getattr(task, f"{side}_loss")(getattr(task, f"{side}_batch")(2, 1)) for side in batches]
    for one, two, three in zip(first, again, redrawn, strict=True):
        assert torch.equal(one.objective, two.objective) and torch.equal(one.denoising, two.denoising)
        assert torch.equal(one.objective, three.objective)
    assert not torch.equal(task.forget_loss(task.forget_batch(3, 1)).objective, first[0].objective)


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("side", ["forget", "retain"])
def test_logs_show_the_plain_denoising_loss(name, side, task_of):
    """A network that misses the noise by 0.5 everywhere logs 0.25, whatever is minimised."""
    task = task_of(name)
    batch = getattr(task, f"{side}_batch")(0, 0)
    model = task.workspace.model
    no_change = 0 * sum(parameter.sum() for parameter in model.transformer.parameters())

    def predict(noisy_latents, timesteps, class_labels):
        noise = noisy_latents - model.noise_schedule.at("signal", timesteps) * batch.noised.latents
        noise = noise / model.noise_schedule.at("noise", timesteps) + 0.5 + no_change
        return torch.cat([noise, torch.zeros_like(noise)], dim=1)

    model.predict = predict
    loss = getattr(task, f"{side}_loss")(batch)
    assert loss.denoising.item() == pytest.approx(0.25, rel=1e-3)


def erase_twice(config, cache):
    """The results of two runs of one configuration with the global generator in two states."""
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        results.append(run_erasure(config, cache_dir=cache))
        assert torch.equal(torch.random.get_rng_state(), state), "a run drew from the global generator"
    return results


@pytest.mark.parametrize("name", NAMES)
def test_a_run_changes_the_weights_and_nothing_of_the_layout(name, tiny_folder, erase_cache, quick_posterior):
    options = {"replay_per_class": 4, **(QUICK if name in TRAINING else {})}
    if any(need.endswith("fisher") for need in method_class(name)().needs):
        options["fisher_samples"] = 6
    config = configure(str(tiny_folder), ["three"], method=name, options=options)
    erased, again = erase_twice(config, erase_cache)
    weights, repeated = (dict(each.model.transformer.named_parameters()) for each in (erased, again))
    assert all(torch.equal(weights[key], repeated[key]) for key in weights), "two runs differ"

    original = dict(erased.original.transformer.named_parameters())
    assert weights.keys() == original.keys()
    assert any(not torch.equal(weights[key], original[key]) for key in weights)
    assert all(each.isfinite().all() for each in weights.values())
    assert (erased.loop is not None) == (name in TRAINING)

    # One embedder for all blocks, and evaluation mode throughout.
    blocks = erased.model.transformer.transformer_blocks
    assert all(block.norm1.emb is blocks[0].norm1.emb for block in blocks)
    assert not any(module.training for module in erased.model.transformer.modules())
