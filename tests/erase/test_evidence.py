"""Fisher diagonals and masks of a real network against gradients taken one by one."""

import pytest
import torch

from erase import evidence
from erase.evidence import (
    cached_fisher,
    fisher_ratio_mask,
    forget_gradient_mask,
    measured_fisher,
    parameters_of,
    simple_loss,
    timestep_losses,
    with_null_row,
)
from erase.saliency import density, load_fisher
from pipelines.embedding import label_table, label_table_name
from pipelines.latents import Latents


@pytest.fixture
def workspace(make_workspace):
    """Class 3 is to be erased; nothing has moved yet."""
    return make_workspace((3,), away=False)


def fisher_of(workspace, latents, side, *, num_samples, summed=False):
    """A diagonal measured now, whatever a cache holds."""
    return measured_fisher(workspace, latents, side, num_samples=num_samples, summed=summed)


def everything(workspace):
    """The latents of both sides."""
    parts = [(each.mean, each.std, each.class_labels) for each in (workspace.forget, workspace.retain)]
    mean, std, class_labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return Latents.in_memory(mean=mean, std=std, class_labels=class_labels)


def flat(tensors):
    """Tensors of a dictionary as one vector."""
    return torch.cat([each.flatten() for each in tensors.values()])


def test_the_tied_embedder_has_one_name(workspace):
    names = parameters_of(workspace)
    assert label_table_name(workspace.model.transformer) in names
    assert len([name for name in names if "embedding_table" in name]) == 1
    assert len({id(each) for each in names.values()}) == len(names)


def test_fisher_is_the_mean_square_of_single_sample_gradients(workspace):
    fisher = fisher_of(workspace, workspace.retain, "retain", num_samples=10)
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
    workspace.model.predict = lambda latents, t, labels: seen.extend(labels.tolist()) or predict(latents, t, labels)
    fisher_of(workspace, workspace.retain, "retain", num_samples=12)
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
    forget = fisher_of(workspace, workspace.forget, "forget", num_samples=6)[table].sum(1) > 0
    retain = fisher_of(workspace, workspace.retain, "retain", num_samples=108)[table].sum(1) > 0
    assert forget.nonzero()[:, 0].tolist() == [3]
    assert retain.nonzero()[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_sample_is_the_same_however_many_are_taken(workspace):
    few = fisher_of(workspace, workspace.forget, "forget", num_samples=2)
    more = fisher_of(workspace, workspace.forget, "forget", num_samples=3)
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
    assert same(first, fisher_of(workspace, workspace.forget, "forget", num_samples=3))
    moved, other, seeded = make_workspace(), make_workspace((4,), away=False), make_workspace(away=False, seed=1)
    for changed in ({"side": "retain"}, {"num_samples": 4}, {"where": moved}, {"where": other}, {"where": seeded}):
        assert not same(cached(**changed), first)
    assert len(list((tmp_path / "cache").iterdir())) == 6

    monkeypatch.setattr(evidence, "measured_fisher", None)  # a second computation would fail
    assert same(cached(), first) and same(cached(where=make_workspace(away=False)), first)
    assert list(cached()) == list(first)  # a file has its own order, and its tensors are on no other device
    assert {each.device for each in cached().values()} == {workspace.model.device}


def test_a_summed_fisher_squares_the_gradient_of_all_timesteps_together(workspace):
    weights, schedule = list(parameters_of(workspace).values()), workspace.model.noise_schedule
    seen, denoising = [], workspace.denoising
    workspace.denoising = lambda noised: seen.append(noised) or denoising(noised)
    fisher = fisher_of(workspace, workspace.retain, "data", num_samples=2, summed=True)

    # Every timestep once for each of the two images.
    assert torch.equal(torch.cat([each.timesteps for each in seen]), torch.arange(1000).repeat(2))
    assert all(len(each.class_labels.unique()) == 1 for each in seen) and len(seen) == 40
    assert all((each.latents[0] == each.latents).all() for each in seen)
    for each in seen[:2]:
        again = schedule.add_noise(each.latents, each.noise, each.timesteps)
        torch.testing.assert_close(each.noisy_latents, again)

    squares = torch.zeros_like(flat(fisher))
    for image in (seen[:20], seen[20:]):
        loss = torch.cat([denoising(each).simple for each in image]).sum()
        parts = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        squares += torch.cat([part.flatten() for part in parts]) ** 2
    torch.testing.assert_close(flat(fisher), squares / 2, rtol=1e-3, atol=1e-6 * squares.max().item())
    assert len(list(timestep_losses(workspace, workspace.retain, "data", chunk=300)(0))) == 4


@pytest.mark.parametrize("threshold", [0.5, 1.0, 3.0])
def test_the_mask_is_that_of_the_ratio_to_the_retain_fisher(workspace, threshold):
    """With the exact diagonals of both sides, all images together are their weighted mean."""
    table = label_table_name(workspace.model.transformer)
    draws = torch.Generator().manual_seed(0)
    forget, retain = (
        {name: torch.rand(each.shape, generator=draws) + 0.1 for name, each in parameters_of(workspace).items()}
        for _ in range(2)
    )
    share = len(workspace.forget) / (len(workspace.forget) + len(workspace.retain))
    assert share == pytest.approx(0.1)
    workspace.forget_fisher = forget
    workspace.data_fisher = {name: share * forget[name] + (1 - share) * retain[name] for name in forget}
    mask = fisher_ratio_mask(workspace, threshold=threshold)
    expected = {name: forget[name] / retain[name] >= threshold for name in forget}
    differing = sum(int((mask[name] != expected[name]).sum()) for name in forget)
    assert differing <= 2 and 0.05 < density(mask) < 0.95 and table in mask  # ties by rounding


def test_a_damaged_fisher_is_made_again(workspace, tmp_path):
    def cached():
        return cached_fisher(workspace, workspace.forget, "forget", num_samples=2, cache_dir=tmp_path)

    first = cached()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert same(cached(), first) and same(load_fisher(path), first)


def test_masks_from_evidence(workspace):
    workspace.forget_fisher = fisher_of(workspace, workspace.forget, "forget", num_samples=12)
    workspace.data_fisher = fisher_of(workspace, everything(workspace), "data", num_samples=120)
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
