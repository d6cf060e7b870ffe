"""Fisher diagonals of a linear-Gaussian model in closed form, and masks against sorting and counting."""

import pytest
import torch
from torch import nn

from erase.saliency import (
    density,
    fisher_diagonal,
    include_rows,
    kth_largest,
    load_fisher,
    load_mask,
    ratio_mask,
    save_fisher,
    save_mask,
    summed_fisher_diagonal,
    summed_gradient,
    top_fraction_mask,
)
from pipelines.errors import DivergedError, MissingError


@pytest.fixture
def linear():
    """y = w.x + b + noise at the true weights: L_n = r_n^2 / 2, so d_w L_n = -r_n x_n and d_b L_n = -r_n."""
    draw = torch.Generator().manual_seed(0)
    inputs, residuals = (
        torch.randn(3000, 3, generator=draw) * torch.tensor([1.0, 2.0, 0.0]),
        torch.randn(3000, generator=draw),
    )
    parameters = {
        "w": nn.Parameter(torch.zeros(3)),
        "b": nn.Parameter(torch.zeros(())),
        "unused": nn.Parameter(torch.ones(2)),
    }

    def loss(index, size=1):
        rows = slice(index * size, (index + 1) * size)
        predicted = inputs[rows] @ parameters["w"] + parameters["b"]
        return (predicted - residuals[rows]).square().mean() / 2

    return parameters, loss, inputs, residuals


def test_fisher_is_the_mean_of_squared_sample_gradients(linear):
    parameters, loss, inputs, residuals = linear
    done = []
    fisher = fisher_diagonal(parameters, loss, 3000, done.append)
    torch.testing.assert_close(fisher["w"], (residuals[:, None] * inputs).square().mean(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(fisher["b"], residuals.square().mean(), rtol=1e-4, atol=0)
    assert fisher["unused"].tolist() == [0, 0] and not fisher["w"].requires_grad
    assert (done[0], done[-1], len(done)) == (1, 3000, 3000) and parameters["w"].grad is None

    # The population value is sigma^2 E[x^2] = (1, 4, 0).
    torch.testing.assert_close(fisher["w"], torch.tensor([1.0, 4.0, 0.0]), rtol=0.2, atol=0)


def test_a_summed_fisher_squares_sums(linear):
    """Each of 300 samples has ten losses of its own."""
    parameters, loss, inputs, residuals = linear
    parts = lambda index: (loss(10 * index + place) for place in range(10))  # noqa: E731
    summed = summed_fisher_diagonal(parameters, parts, 300)
    sums = (residuals[:, None] * inputs).view(300, 10, 3).sum(1)
    torch.testing.assert_close(summed["w"], sums.square().mean(0), rtol=1e-4, atol=0)
    # Independent gradients of zero mean: the square of a sum of ten is ten times the mean square.
    assert 5 < summed["w"][0] / fisher_diagonal(parameters, loss, 3000)["w"][0] < 20


def test_summed_gradient_is_the_size_of_the_sum(linear):
    parameters, loss, inputs, residuals = linear
    score = summed_gradient(parameters, lambda index: loss(index, 10), 300)
    expected = (residuals[:, None] * inputs).view(300, 10, 3).mean(1).sum(0).abs()
    torch.testing.assert_close(score["w"], expected, rtol=1e-3, atol=1e-4)


def test_ratio_mask_compares_and_floors():
    forget = {"w": torch.tensor([2.0, 1.0, 0.9, 1e-9, 0.0, 0.5]), "v": torch.tensor([0.0, 3.0])}
    retain = {"w": torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), "v": torch.tensor([1.0, 2.0])}
    # The median of the positive retain values is 1, the floor 0.01: a trace of 1e-9 does not pass, 0.5 does.
    mask = ratio_mask(forget, retain, threshold=1.0)
    assert mask["w"].tolist() == [True, True, False, False, False, True]
    assert mask["v"].tolist() == [False, True]
    assert ratio_mask(forget, retain, threshold=1.0, floor=1e-12)["w"].tolist()[3:5] == [True, False]
    assert ratio_mask(forget, retain, threshold=2.0)["w"].tolist() == [True, False, False, False, False, True]
    assert ratio_mask(forget, retain, threshold=1.0, always=["v"])["v"].all()


def test_ratio_mask_refuses_what_does_not_fit():
    one = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="same parameters"):
        ratio_mask(one, {"v": torch.ones(2)}, threshold=1.0)
    with pytest.raises(ValueError, match="same parameters"):
        ratio_mask(one, one, threshold=1.0, always=["nowhere"])
    for wrong in (float("nan"), float("inf"), -1.0):
        with pytest.raises(DivergedError, match="not finite"):
            ratio_mask({"w": torch.tensor([1.0, wrong])}, one, threshold=1.0)


@pytest.mark.parametrize("scale", [1.0, 1e-38, 1e-42, 1e30])
def test_kth_largest_is_that_of_a_sort(scale):
    draw = torch.Generator().manual_seed(0)
    values = [
        torch.rand(7, 11, generator=draw) * scale,
        torch.rand(100, generator=draw).square() * scale,
        torch.zeros(5),
    ]
    ordered = torch.cat([each.flatten() for each in values]).sort(descending=True).values
    for k in (1, 2, 50, 177, 178, 182):
        assert kth_largest(values, k) == ordered[k - 1].item()


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.5, 0.9])
def test_top_fraction_is_over_all_weights_together(fraction):
    draw = torch.Generator().manual_seed(0)
    score = {"small": torch.rand(20, 30, generator=draw), "large": 1 + torch.rand(400, generator=draw)}
    mask = top_fraction_mask(score, fraction=fraction)
    assert sum(int(each.sum()) for each in mask.values()) == round(1000 * fraction)
    chosen = torch.cat([score[name][mask[name]] for name in score])
    left = torch.cat([score[name][~mask[name]] for name in score])
    assert chosen.min() > left.max()
    assert density(mask) == pytest.approx(round(1000 * fraction) / 1000)


def test_top_fraction_is_exact_with_ties_and_never_takes_a_zero():
    tied = {"a": torch.tensor([0.0, 1.0, 2.0, 1.0]), "b": torch.tensor([[1.0, 1.0], [0.0, 3.0]])}
    mask = top_fraction_mask(tied, fraction=0.5)
    assert mask["a"].tolist() == [False, True, True, True] and mask["b"].tolist() == [[False, False], [False, True]]
    assert mask["b"].dtype == torch.bool
    few = top_fraction_mask({"a": torch.tensor([0.0, 0.0, 0.0, 5.0])}, fraction=0.75)
    assert few["a"].tolist() == [False, False, False, True]
    assert not top_fraction_mask({"a": torch.zeros(4)}, fraction=0.5)["a"].any()
    with pytest.raises(ValueError, match="--mask-fraction"):
        top_fraction_mask(tied, fraction=0.0)


def test_include_rows_adds_rows_to_a_copy():
    mask = {"table": torch.zeros(4, 2, dtype=torch.bool), "w": torch.ones(1, dtype=torch.bool)}
    wider = include_rows(mask, "table", [0, 3])
    assert wider["table"].all(1).tolist() == [True, False, False, True]
    assert not mask["table"].any() and wider["w"] is mask["w"]


def test_masks_on_disk_are_packed_bits_under_plain_names(tmp_path):
    draw = torch.Generator().manual_seed(0)
    mask = {
        "blocks.0.w": torch.rand(301, 33, generator=draw) < 0.3,
        "scalar": torch.tensor(True),
        "b": torch.zeros(9) > 1,
    }
    path = tmp_path / "masks" / "mask.safetensors"
    save_mask(mask, path, metadata={"threshold": 1.0})
    loaded = load_mask(path)
    assert mask.keys() == loaded.keys()
    assert all(torch.equal(mask[name], loaded[name]) for name in mask)
    assert path.stat().st_size < 301 * 33 / 8 + 1000
    assert [each.name for each in path.parent.iterdir()] == ["mask.safetensors"]


def test_fisher_on_disk(tmp_path):
    fisher = {"w": torch.rand(5, 3), "b": torch.rand(())}
    save_fisher(fisher, tmp_path / "fisher.safetensors", metadata={"samples": 10})
    loaded = load_fisher(tmp_path / "fisher.safetensors")
    assert fisher.keys() == loaded.keys() and all(torch.equal(fisher[name], loaded[name]) for name in fisher)
    with pytest.raises(MissingError, match="saliency mask"):
        load_mask(tmp_path / "fisher.safetensors")
