"""Squares of per-sample gradients from whole batches against gradients taken one sample at a time."""

import copy

import pytest
import torch
from torch import nn

from erase import squared_gradients
from erase.evidence import samples_at_once, simple_loss, single_losses
from erase.saliency import fisher_diagonal
from erase.squared_gradients import SquaredGradients, batched_fisher_diagonal, can_square
from pipelines.embedding import label_table_name

NUM_SAMPLES = 20
CPU = torch.device("cpu")


@pytest.fixture
def workspace(make_workspace):
    """Class 3 is to be erased; nothing has moved yet."""
    return make_workspace((3,), away=False)


def one_by_one(workspace, side="retain"):
    """The reference: a backward pass for each sample."""
    transformer = workspace.model.transformer
    loss = simple_loss(workspace, getattr(workspace, side), side, batch_size=1)
    return fisher_diagonal(dict(transformer.named_parameters()), loss, NUM_SAMPLES)


def in_batches(workspace, at_once, side="retain"):
    """The same from passes of several samples, and how far each came."""
    told = []
    losses = single_losses(workspace, getattr(workspace, side), side)
    fisher = batched_fisher_diagonal(
        workspace.model.transformer, losses, NUM_SAMPLES, at_once=at_once, progress=told.append
    )
    return fisher, told


def distance(left, right):
    """Relative distance of two diagonals over all weights together."""
    pairs = [(left[name].double(), right[name].double()) for name in right]
    apart = sum((a - b).square().sum() for a, b in pairs)
    return (apart / sum(b.square().sum() for _, b in pairs)).sqrt().item()


@pytest.mark.parametrize("at_once", [3, 20, 64])
def test_a_batch_gives_the_squares_of_single_samples(workspace, at_once):
    wanted, (found, told) = one_by_one(workspace), in_batches(workspace, at_once)
    assert list(found) == list(wanted) and told[-1] == NUM_SAMPLES
    assert distance(found, wanted) < 1e-6
    # A bias of the keys shifts all logits alike: its gradient is zero, and what is found is rounding.
    for name in wanted:
        if not name.endswith("to_k.bias"):
            assert distance({name: found[name]}, {name: wanted[name]}) < 1e-4, name


def test_the_square_of_a_sum_would_be_another_number(workspace):
    wanted = one_by_one(workspace)
    losses = single_losses(workspace, workspace.retain, "retain")
    transformer = workspace.model.transformer
    mean = torch.autograd.grad(losses(range(NUM_SAMPLES)).mean(), list(transformer.parameters()))
    assert distance(dict(zip(wanted, (each.square() for each in mean), strict=True)), wanted) > 0.5


def test_gradients_are_squared_a_few_at_a_time_where_a_layer_is_large(workspace, monkeypatch):
    wanted = in_batches(workspace, 20)[0]
    monkeypatch.setitem(squared_gradients.GRADIENTS_AT_ONCE, "cpu", 1)
    assert distance(in_batches(workspace, 20)[0], wanted) < 1e-6


def test_label_rows_are_touched_by_their_own_images_alone(workspace):
    found = in_batches(workspace, 20, side="forget")[0][label_table_name(workspace.model.transformer)]
    assert found.sum(1).nonzero()[:, 0].tolist() == [3]


def test_nothing_of_the_network_is_changed(workspace):
    transformer = workspace.model.transformer
    before = [each.detach().clone() for each in transformer.parameters()]
    in_batches(workspace, 20)
    assert all(torch.equal(*pair) for pair in zip(before, transformer.parameters(), strict=True))
    assert all(each.requires_grad and each.grad is None for each in transformer.parameters())
    assert not any(module._forward_hooks for name, module in transformer.named_modules() if "." in name)


def test_patches_that_overlap_and_have_a_border():
    draw = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(5, 2, 2, bias=False))
    images = torch.randn(6, 3, 9, 9, generator=draw)
    losses = lambda numbers: network(images[list(numbers)]).square().mean((1, 2, 3))  # noqa: E731
    found = batched_fisher_diagonal(network, losses, 6, at_once=6, progress=lambda done: None)
    wanted = fisher_diagonal(dict(network.named_parameters()), lambda number: losses([number])[0], 6)
    assert distance(found, wanted) < 1e-6


def test_layers_without_a_rule_are_refused():
    assert can_square(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2, elementwise_affine=False)))
    shared = nn.Linear(2, 2, bias=False)
    other = nn.Linear(2, 2, bias=False)
    other.weight = shared.weight
    for layer in (
        nn.LayerNorm(2), nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(2, 2, 2, dilation=2), nn.Sequential(shared, other),
        nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Embedding(3, 2, padding_idx=0), nn.Embedding(3, 2, max_norm=1.0),
    ):  # fmt: skip
        assert not can_square(layer)
        with pytest.raises(ValueError, match="per-sample squares need every weight"):
            SquaredGradients(layer)


def test_bf16_passes_give_nearly_the_same_squares(workspace):
    wanted = one_by_one(workspace)
    workspace.precision = "bf16"
    found = in_batches(workspace, 20)[0]
    assert distance(found, wanted) < 0.02 and all(each.dtype == torch.float32 for each in found.values())


def test_untied_embedders_go_one_at_a_time(workspace):
    transformer = workspace.model.transformer
    assert samples_at_once(transformer, CPU, checkpointing=False) > 1
    transformer.transformer_blocks[1].norm1.emb = copy.deepcopy(transformer.transformer_blocks[0].norm1.emb)
    assert samples_at_once(transformer, CPU, checkpointing=False) == 1


def test_samples_at_once_follow_the_number_of_tokens(workspace):
    transformer = workspace.model.transformer
    assert samples_at_once(transformer, CPU, checkpointing=True) == 1
    assert samples_at_once(transformer, CPU, checkpointing=False) == 64
    transformer.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    assert samples_at_once(transformer, CPU, checkpointing=False) == 1
