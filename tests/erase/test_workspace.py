"""Batches of a workspace: pure functions of (side, step, phase), whole epochs, labels dropped at their rate."""

import pytest
import torch

from erase.workspace import Batch
from pipelines.diffusion import denoising_loss
from pipelines.embedding import label_table


def same(left, right):
    """Whether two batches are the same bits."""
    pairs = zip(vars(left.noised).values(), vars(right.noised).values(), strict=True)
    return left.seed == right.seed and all(torch.equal(one, two) for one, two in pairs)


def draw(workspace, side="forget", step=0, phase=0, size=8, dropout=0.0):
    """A batch with the arguments that a test does not vary left out."""
    return workspace.draw(side, step, phase, batch_size=size, label_dropout=dropout)


def test_classes_that_are_not_erased_are_retained(make_workspace):
    assert make_workspace((3, 8)).retained_classes == [0, 1, 2, 4, 5, 6, 7, 9]
    assert len(make_workspace((3, 8)).forget) == 24


def test_a_batch_is_a_function_of_its_number(make_workspace):
    workspace, other = make_workspace(), make_workspace(away=False)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    wanted = draw(workspace, step=7, phase=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    for step in range(3):
        draw(other, "retain", step, size=5, dropout=0.5)
    torch.manual_seed(2)
    assert same(draw(other, step=7, phase=2), wanted)


@pytest.mark.parametrize("changed", [{"side": "retain"}, {"step": 8}, {"phase": 1}, {"phase": -1}])
def test_every_number_has_its_own_draws(make_workspace, changed):
    workspace = make_workspace()
    first, second = draw(workspace, step=7, phase=2), draw(workspace, **{"step": 7, "phase": 2, **changed})
    assert first.seed != second.seed and not torch.equal(first.noised.noise, second.noised.noise)
    assert not torch.equal(first.noised.timesteps, second.noised.timesteps)


def test_the_seed_of_the_run_decides(make_workspace):
    assert not same(draw(make_workspace(seed=1)), draw(make_workspace(seed=2)))


def test_the_noise_is_ddpms_and_the_timesteps_are_uniform(make_workspace):
    workspace = make_workspace()
    parts = [draw(workspace, "retain", step, size=100).noised for step in range(20)]
    noised = parts[0]
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[noised.timesteps]
    signal, noise = (each.float()[:, None, None, None] for each in (abar.sqrt(), (1 - abar).sqrt()))
    torch.testing.assert_close(
        noised.noisy_latents, signal * noised.latents + noise * noised.noise, rtol=1e-5, atol=1e-5
    )

    timesteps = torch.cat([each.timesteps for each in parts])
    counts = (timesteps // 100).bincount(minlength=10).float()
    assert len(counts) == 10 and ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, 0.1 %
    noise = torch.cat([each.noise for each in parts])
    assert noise.mean().abs() < 0.01 and (noise.var() - 1).abs() < 0.02


def test_an_epoch_shows_every_image_once(make_workspace, toy_latents):
    workspace = make_workspace()
    shown = torch.cat([draw(workspace, step=step, size=5).noised.latents for step in range(12)])  # 60 of 12 images
    centres = workspace.forget.mean[:, 0].flatten(1)
    counts = torch.cdist(shown.flatten(1), centres).argmin(1).bincount(minlength=12)
    assert counts.tolist() == [5] * 12
    orders = [torch.cdist(shown[12 * e : 12 * e + 12].flatten(1), centres).argmin(1).tolist() for e in range(2)]
    other_phase = draw(workspace, phase=1, size=12).noised.latents
    orders.append(torch.cdist(other_phase.flatten(1), centres).argmin(1).tolist())
    assert orders[0] != orders[1] and orders[0] != orders[2] and sorted(orders[2]) == list(range(12))


def test_latents_are_samples_of_the_posterior(make_workspace):
    workspace = make_workspace()
    first, second = (
        workspace.noise(workspace.forget, torch.arange(12), stream=(name,), label_dropout=0.0) for name in "ab"
    )
    spread = (first.noised.latents - workspace.forget.mean[:, 0]) / 0.1
    assert spread.std().item() == pytest.approx(1, abs=0.1)
    assert not torch.equal(first.noised.latents, second.noised.latents)


def test_labels_are_dropped_once_per_sample_at_their_rate(make_workspace):
    workspace = make_workspace()
    labels = torch.cat(
        [draw(workspace, "retain", step, size=100, dropout=0.2).noised.class_labels for step in range(20)]
    )
    assert (labels == 10).float().mean().item() == pytest.approx(0.2, abs=0.03)
    plain = torch.cat([draw(workspace, "retain", step, size=100).noised.class_labels for step in range(20)])
    assert torch.equal(labels[labels != 10], plain[labels != 10]) and not (plain == 10).any()


def test_a_generator_of_a_batch_starts_anew_each_time():
    batch = Batch(None, seed=5)
    first, again, other = (torch.rand(3, generator=batch.generator(name)) for name in ("a", "a", "b"))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(torch.rand(3, generator=Batch(None, seed=6).generator("a")), first)


def test_predictions_and_losses_are_the_networks_own(make_workspace):
    workspace = make_workspace()
    noised = draw(workspace).noised
    output = workspace.model.predict(noised.noisy_latents, noised.timesteps, noised.class_labels)
    assert torch.equal(workspace.predict(noised), output) and output.requires_grad
    expected = denoising_loss(workspace.model.noise_schedule, output, noised)
    assert all(torch.equal(one, two) for one, two in zip(workspace.denoising(noised), expected, strict=True))

    # The frozen original answers under any label, and without a graph.
    labels = torch.full((8,), 10)
    frozen = workspace.reference_output(noised, labels)
    assert not frozen.requires_grad
    assert torch.equal(frozen, workspace.reference.predict(noised.noisy_latents, noised.timesteps, labels))
    assert not torch.equal(frozen, workspace.predict(noised.relabelled(labels)))


def test_the_original_rows_stay_when_the_table_moves(make_workspace):
    workspace = make_workspace()
    table = label_table(workspace.reference.transformer)
    assert torch.equal(workspace.original_rows, table) and workspace.original_rows.shape == (11, 16)
    assert not torch.equal(label_table(workspace.model.transformer), workspace.original_rows)
