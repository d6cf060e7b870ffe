"""Memory counted before anything is allocated, against closed forms and against what is really held."""

import dataclasses

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from erase.config import EngineConfig, ErasureConfig
from erase.configure import method_of
from erase.evidence import samples_at_once
from erase.memory import (
    LiveBytes,
    copies,
    count_memory,
    count_training_bytes,
    fake_losses,
    moments,
    num_weights,
    tied_transformer,
    training_bytes,
)
from erase.memory_savings import RESERVE, fit_memory, peak, what_helps
from erase.memory_table import state_table
from erase.optimizers import PhaseMasks, PhaseStepper
from erase.squared_gradients import SquaredGradients

CPU = torch.device("cpu")
XL2 = {
    "_class_name": "DiTTransformer2DModel", "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4,
    "out_channels": 8, "num_layers": 28, "sample_size": 32, "patch_size": 2, "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero", "norm_elementwise_affine": False,
}  # fmt: skip
SMALL = {**XL2, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3, "sample_size": 8}
GB = 10**9


def configured(method="gradient_ascent", options=None, **settings):
    engine = EngineConfig(**{"forget_batch_size": 1, "retain_batch_size": 1, **settings})
    return ErasureConfig(method=method, method_options=options or {}, engine=engine, forget_classes=(0,))


def counted(config, transformer=XL2, vae_weights=0, device=CPU):
    phases = count_memory(config, method_of(config), transformer, vae_weights=vae_weights, device=device)
    return {phase.name: phase for phase in phases}


def test_live_bytes_are_those_of_tensors_that_exist_at_the_same_time():
    with FakeTensorMode():
        layer = nn.Linear(8, 16)
        inputs = torch.zeros(4, 8)
        with LiveBytes(ignored=layer.parameters()) as live:
            first = torch.zeros(100)
            del first
            second = layer(inputs)
            view = second.view(-1)
            assert live.live == 4 * 4 * 16  # the output once, the freed tensor and the view not at all
            del second, view
        assert live.live == 0 and live.peak == 400


def test_gradients_are_part_of_the_peak_and_checkpointing_lowers_the_rest():
    config = configured()
    weights = 4 * num_weights(SMALL)
    plain = [training_bytes(SMALL, config, size, device=CPU) for size in (8, 16, 32)]
    assert plain[0] > weights
    assert plain[2] - plain[1] == pytest.approx(2 * (plain[1] - plain[0]), rel=0.1)  # linear in the batch
    leaner = dataclasses.replace(config, gradient_checkpointing=True)
    assert training_bytes(SMALL, leaner, 32, device=CPU) < 0.6 * plain[2]
    assert count_training_bytes.cache_info().hits or count_training_bytes.cache_info().misses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pass_of_squares_is_counted_as_it_is(precision, monkeypatch):
    """A real pass on real tensors holds what the plan says, and several processes do not make it smaller."""
    config = dataclasses.replace(configured("sfron"), precision=precision)
    preparation = counted(config, SMALL)["preparation"]
    transformer = tied_transformer(SMALL)
    squares = SquaredGradients(transformer)
    held = [*transformer.parameters(), *transformer.buffers(), *squares.totals.values()]
    at_once = samples_at_once(transformer, CPU, checkpointing=False)
    assert at_once == 64
    with LiveBytes(ignored=held) as live:
        squares.add(lambda: fake_losses(transformer, at_once, bf16=precision == "bf16"))
    assert preparation.parts["activations"] == pytest.approx(live.peak, rel=0.05)
    assert preparation.parts["Fisher"] == 2 * sum(each.nbytes for each in squares.totals.values())
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert counted(config, SMALL)["preparation"].parts == preparation.parts


def test_the_states_of_xl2_take_what_the_design_counts():
    """Weights, gradients and moments: 13.2 GB with packed forget moments at density 0.3, under 9.5 with 8-bit ones."""
    shared, dual, packed, eight_bit = state_table(XL2)
    assert shared.weights == 4 * 674_834_720 == shared.gradients
    assert (shared.total, dual.total) == (16 * 674_834_720, 24 * 674_834_720)
    assert packed.total / GB == pytest.approx(13.2, abs=0.05)
    assert eight_bit.total / GB < 9.5


@pytest.mark.parametrize("retain", ["full", "8bit"])
@pytest.mark.parametrize("forget", ["full", "packed"])
def test_counted_moments_are_those_that_are_held(forget, retain):
    if retain == "8bit":
        pytest.importorskip("torchao")
    parameters = {"weight": nn.Parameter(torch.zeros(512, 512))}
    mask = {"weight": torch.arange(512 * 512).view(512, 512) % 10 < 3}
    config = configured("salun", {"mask_fraction": 0.3}, forget_moments=forget, retain_moments=retain)
    stepper = PhaseStepper(parameters, config.engine, masks=PhaseMasks(forget=mask))
    for side in ("forget", "retain"):
        gradients = [torch.ones(512, 512)]
        stepper.condition(side, gradients)
        stepper.step(side, gradients, step=0, measure=False)
    held = sum(each.nbytes for name, each in stepper.state_tensors().items() if ".step/" not in name)
    if forget == "packed":
        held += sum(places.nbytes for places in stepper.optimizers["forget"].places)
    planned = sum(moments(config.engine, method_of(config), 512 * 512).values())
    assert held == pytest.approx(planned, rel=1e-3)


def test_a_posterior_is_counted_by_its_own_weights():
    """A network of 32x32 latents, or a head on a width of 32: time layers, norm and 1000 classes."""
    large, sizes = {**SMALL, "sample_size": 32}, {}
    for choice in ("auto", "network", "head"):
        config = dataclasses.replace(configured("retain_posterior"), posterior=choice)
        sizes[choice] = counted(config, large)["forget phase"].parts["posterior"]
    head = 64 * 128 + 128 + 129 * 4 * 32 + 2 * 64 + 65 * 1000
    assert sizes["auto"] == sizes["head"] == 4 * head and sizes["network"] != sizes["head"]
    assert "posterior" not in counted(configured(), large)["forget phase"].parts


def test_phases_hold_what_they_need():
    plain, sfron = counted(configured(), SMALL), counted(configured("sfron"), SMALL)
    weights = 4 * num_weights(SMALL)
    assert set(plain) == {"forget phase", "retain phase", "log line"} and "preparation" in sfron
    assert sfron["forget phase"].parts["Fisher"] == 2 * weights
    assert plain["log line"].total - plain["retain phase"].total == weights
    assert "log line" not in counted(configured(diagnostics=False), SMALL)
    robust = counted(configured(robust=True), SMALL)["forget phase"]
    assert robust.total - plain["forget phase"].total == 4 * weights
    sgd = counted(configured(robust=True, robust_attacker="sgd"), SMALL)["forget phase"]
    assert robust.total - sgd.total == 2 * weights
    label = configured(robust=True, robust_target="label", robust_label_rows=40, robust_label_images=5)
    large = configured(robust=True, robust_steps=1, forget_batch_size=200)
    assert (
        counted(label, SMALL)["forget phase"].parts["activations"]
        == (counted(large, SMALL)["forget phase"].parts["activations"])
    )
    assert "original weights" in counted(configured("esd"), SMALL)["retain phase"].parts
    elsewhere = copies(configured(), method_of(configured()), 1, torch.device("cuda"))
    assert "last good weights" in plain["retain phase"].parts and "last good weights" not in elsewhere


def test_the_mildest_savings_that_fit_are_chosen_and_fixed_ones_stay(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    config = configured("salun", {"mask_fraction": 0.3}, retain_batch_size=64)
    method, sizes = method_of(config), {"vae_weights": 0, "device": CPU}

    def fitted(free, fixed=()):
        found, chosen = fit_memory(config, method, SMALL, **sizes, free=free, fixed=frozenset(fixed))
        return found, chosen, peak(found, method, SMALL, **sizes)

    needed = peak(config, method, SMALL, **sizes)
    assert fitted(2 * needed) == (config, [], needed)
    short = int((needed - 1) / RESERVE)  # a byte too little
    found, chosen, less = fitted(short)
    assert chosen == ["--no-diagnostics"] and less < needed and not found.engine.diagnostics
    assert fitted(short, fixed=["diagnostics"])[1][0] == "--forget-moments packed"
    found, chosen, least = fitted(0)
    assert chosen == [
        "--no-diagnostics",
        "--forget-moments packed",
        "--gradient-checkpointing",
        "--retain-moments 8bit",
    ]
    assert least < less and found.engine.retain_moments == "8bit" and found.gradient_checkpointing


def test_what_may_still_help_is_what_would(monkeypatch):
    config = configured(forget_batch_size=256, retain_batch_size=256, diagnostics=False)
    method, sizes = method_of(config), {"vae_weights": 0, "device": CPU}
    least = {
        moments: peak(
            configured(forget_batch_size=1, retain_batch_size=1, diagnostics=False, retain_moments=moments), method,
            SMALL, **sizes)
        for moments in ("full", "8bit")
    }  # fmt: skip
    assert least["8bit"] < least["full"] < peak(config, method, SMALL, **sizes)

    def advice(needed, *, package):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
        return what_helps(config, lambda other: peak(other, method, SMALL, **sizes) <= needed)

    assert advice(least["full"], package=False) == "lower --forget-batch-size and --retain-batch-size"
    assert advice(least["8bit"], package=False).startswith("pip install 'dit-erase[8bit]'")
    assert (
        advice(least["8bit"], package=True) == "smaller batches alone do not help: it needs a device with more memory"
    )
    assert advice(least["8bit"] / 2, package=False).startswith("smaller batches alone do not help")
