"""Deltas: only what changed is written, and the erased weights come back bit for bit."""

import copy

import pytest
import torch

from pipelines.delta import apply_delta, difference, load_delta, save_delta, weights_sha256
from pipelines.errors import MissingError, UsageError


@pytest.fixture
def changed(tiny_dit):
    """The tiny model with one label row, a few scattered weights and one whole matrix changed."""
    other = copy.deepcopy(tiny_dit.transformer)
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        table = next(each for name, each in parameters.items() if "embedding_table" in name)
        table[3] += 1
        parameters["proj_out_2.bias"][5] = -0.0 if parameters["proj_out_2.bias"][5] == 0 else 0.0
        parameters["proj_out_1.weight"].mul_(1.5)
    return other


def same_bits(left, right):
    """Whether two networks have the same bits under the same names."""
    pairs = zip(left.named_parameters(), right.named_parameters(), strict=True)
    return all(a == b and torch.equal(one.view(torch.int32), two.view(torch.int32)) for (a, one), (b, two) in pairs)


def test_only_what_changed_is_written_and_comes_back(tiny_dit, changed, tmp_path):
    delta = difference(tiny_dit.transformer, changed, about={"base": "tiny"})
    names = {name.partition("@")[0] for name in delta.tensors}
    assert len(names) == 3 and "proj_out_1.weight" in delta.tensors and "proj_out_2.bias@values" in delta.tensors
    assert len(delta.tensors["proj_out_2.bias@places"]) == 1

    save_delta(delta, tmp_path / "delta.safetensors")
    again = load_delta(tmp_path / "delta.safetensors")
    assert again.about == {"base": "tiny"} and again.base_sha256 == weights_sha256(tiny_dit.transformer)
    rebuilt = copy.deepcopy(tiny_dit.transformer)
    apply_delta(rebuilt, again)
    assert same_bits(rebuilt, changed) and not same_bits(rebuilt, tiny_dit.transformer)
    assert weights_sha256(rebuilt) == again.result_sha256


def test_minus_zero_and_nan_are_changes(tiny_dit):
    base, other = copy.deepcopy(tiny_dit.transformer), copy.deepcopy(tiny_dit.transformer)
    with torch.no_grad():
        base.proj_out_2.bias[0], other.proj_out_2.bias[0] = 0.0, -0.0
        other.proj_out_2.bias[1] = torch.nan
    delta = difference(base, other, about={})
    assert delta.tensors["proj_out_2.bias@places"].tolist() == [0, 1]
    apply_delta(base, delta)
    assert same_bits(base, other)


def test_an_unchanged_model_has_an_empty_delta(tiny_dit):
    assert difference(tiny_dit.transformer, copy.deepcopy(tiny_dit.transformer), about={}).tensors == {}


def test_another_base_and_damage_are_refused(tiny_dit, changed, tmp_path):
    delta = difference(tiny_dit.transformer, changed, about={"base": "tiny"})
    with pytest.raises(UsageError, match=r"made from another base \(tiny\)"):
        apply_delta(copy.deepcopy(changed), delta)
    delta.tensors["proj_out_1.weight"][0, 0] += 1
    with pytest.raises(MissingError, match="the delta is damaged"):
        apply_delta(copy.deepcopy(tiny_dit.transformer), delta)
    save_delta(delta, tmp_path / "delta.safetensors")
    whole = (tmp_path / "delta.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    with pytest.raises(MissingError, match="truncated, foreign or absent"):
        load_delta(tmp_path / "cut.safetensors")
