"""Fisher diagonals and masks of a real network against gradients taken one by one."""

import pytest
import torch

from erase import evidence
from erase.evidence import (
    cached_fisher,
    fisher_ratio_mask,
    forget_gradient_mask,
    parameters_of,
    side_fisher,
    simple_loss,
    with_null_row,
)
from erase.saliency import density
from pipelines.embedding import label_table, label_table_name


@pytest.fixture
def workspace(make_workspace):
    """Class 3 is to be erased; nothing has moved yet."""
    return make_workspace((3,), away=False)


def flat(tensors):
    """Tensors of a dictionary as one vector."""
    return torch.cat([each.flatten() for each in tensors.values()])


def test_the_tied_embedder_has_one_name(workspace):
    names = parameters_of(workspace)
    assert label_table_name(workspace.model.transformer) in names
    assert len([name for name in names if "embedding_table" in name]) == 1
    assert len({id(each) for each in names.values()}) == len(names)


def test_fisher_is_the_mean_square_of_single_sample_gradients(workspace):
    fisher = side_fisher(workspace, workspace.retain, "retain", num_samples=10)
    loss = simple_loss(workspace, workspace.retain, "retain", batch_size=1)
    weights = list(parameters_of(workspace).values())
    squares = torch.zeros_like(flat(fisher))
    for index in range(10):
        parts = torch.autograd.grad(loss(index), weights, allow_unused=True, materialize_grads=True)
        squares += torch.cat([part.flatten() for part in parts]) ** 2
    torch.testing.assert_close(flat(fisher), squares / 10, rtol=1e-4, atol=1e-10)

    # Not the square of the mean gradient.
    batch = simple_loss(workspace, workspace.retain, "retain", batch_size=10)
    parts = torch.autograd.grad(batch(0), weights, allow_unused=True, materialize_grads=True)
    assert torch.cat([part.flatten() for part in parts]).square().sum() < 0.5 * squares.sum() / 10


def test_the_loss_is_the_plain_one_without_label_dropout(workspace, monkeypatch):
    seen, predict = [], workspace.model.predict
    workspace.model.predict = lambda latents, t, labels: seen.append(labels) or predict(latents, t, labels)
    loss = simple_loss(workspace, workspace.retain, "retain", batch_size=108)(0)
    (labels,) = seen
    assert torch.equal(labels.sort().values, workspace.retain.class_labels)
    assert not workspace.model.transformer.training

    drawn, denoising = [], workspace.denoising
    monkeypatch.setattr(workspace, "denoising", lambda noised: drawn.append(noised) or denoising(noised))
    again = simple_loss(workspace, workspace.retain, "retain", batch_size=108)(0)
    assert torch.equal(loss, again)
    output = predict(drawn[0].noisy_latents, drawn[0].timesteps, drawn[0].class_labels)
    torch.testing.assert_close(again, (drawn[0].noise - output[:, :4]).square().mean())


def test_a_few_samples_already_come_from_many_classes(workspace):
    """The retain set is sorted by class, as a folder is: the first images alone would be of one class."""
    assert workspace.retain.class_labels[:12].tolist() == [0] * 12
    seen, predict = [], workspace.model.predict
    workspace.model.predict = lambda latents, t, labels: seen.append(int(labels)) or predict(latents, t, labels)
    side_fisher(workspace, workspace.retain, "retain", num_samples=12)
    assert len(set(seen)) >= 5


def test_every_image_counts_before_any_counts_twice(workspace, monkeypatch):
    drawn, noise = [], workspace.noise

    def recorded(latents, indices, *, stream, label_dropout):
        drawn.append(indices)
        return noise(latents, indices, stream=stream, label_dropout=label_dropout)

    monkeypatch.setattr(workspace, "noise", recorded)
    loss = simple_loss(workspace, workspace.forget, "forget", batch_size=8)
    for index in range(3):
        loss(index)
    order = torch.cat(drawn)
    assert sorted(order[:12].tolist()) == list(range(12)) and torch.equal(order[12:], order[:12])


def test_label_rows_have_evidence_only_for_their_own_side(workspace):
    table = label_table_name(workspace.model.transformer)
    forget = side_fisher(workspace, workspace.forget, "forget", num_samples=6)[table].sum(1) > 0
    retain = side_fisher(workspace, workspace.retain, "retain", num_samples=108)[table].sum(1) > 0
    assert forget.nonzero()[:, 0].tolist() == [3]
    assert retain.nonzero()[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_sample_is_the_same_however_many_are_taken(workspace):
    few = side_fisher(workspace, workspace.forget, "forget", num_samples=2)
    more = side_fisher(workspace, workspace.forget, "forget", num_samples=3)
    loss = simple_loss(workspace, workspace.forget, "forget", batch_size=1)
    parts = torch.autograd.grad(
        loss(2), list(parameters_of(workspace).values()), allow_unused=True, materialize_grads=True
    )
    third = torch.cat([part.flatten() for part in parts]) ** 2
    torch.testing.assert_close(3 * flat(more), 2 * flat(few) + third, rtol=1e-4, atol=1e-8)


def same(left, right):
    """Whether two diagonals have the same bits under the same names."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_cache_is_keyed_by_weights_data_and_samples(workspace, make_workspace, tmp_path, monkeypatch):
    def cached(where=workspace, side="forget", num_samples=3):
        latents = getattr(where, side)
        return cached_fisher(where, latents, side, num_samples=num_samples, cache_dir=tmp_path / "cache")

    first = cached()
    assert same(first, side_fisher(workspace, workspace.forget, "forget", num_samples=3))
    moved, other, seeded = make_workspace(), make_workspace((4,), away=False), make_workspace(away=False, seed=1)
    for changed in ({"side": "retain"}, {"num_samples": 4}, {"where": moved}, {"where": other}, {"where": seeded}):
        assert not same(cached(**changed), first)
    assert len(list((tmp_path / "cache").iterdir())) == 6

    monkeypatch.setattr(evidence, "side_fisher", None)  # a second computation would fail
    assert same(cached(), first) and same(cached(where=make_workspace(away=False)), first)
    assert list(cached()) == list(first)  # a file has its own order, and its tensors are on no other device
    assert {each.device for each in cached().values()} == {workspace.model.device}


def test_masks_from_evidence(workspace):
    workspace.forget_fisher = side_fisher(workspace, workspace.forget, "forget", num_samples=12)
    workspace.retain_fisher = side_fisher(workspace, workspace.retain, "retain", num_samples=54)
    table = label_table_name(workspace.model.transformer)
    mask = fisher_ratio_mask(workspace, threshold=1.0)
    assert mask[table].any(dim=1).nonzero()[:, 0].tolist() == [3] and mask[table][3].all()
    assert density(fisher_ratio_mask(workspace, threshold=4.0)) < density(mask) < 1

    assert forget_gradient_mask(workspace, fraction=0.0) is None and with_null_row(workspace, None) is None
    top = forget_gradient_mask(workspace, fraction=0.2, num_batches=2)
    assert density(top) == pytest.approx(0.2, abs=1e-3) and not top[table][10].any()
    opened = with_null_row(workspace, top)
    assert opened[table][10].all() and not top[table][10].any()
    assert label_table(workspace.model.transformer).grad is None
