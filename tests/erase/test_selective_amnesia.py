"""Selective Amnesia: surrogates, the elastic penalty and the ratio that sets its weight."""

import pytest
import torch

from erase.methods.selective_amnesia import elastic_penalty
from pipelines.errors import UsageError


def weights_of(model):
    """Every trainable weight as one vector."""
    return torch.cat([each.detach().flatten() for each in model.transformer.parameters()])


def gradient(model, objective):
    """The gradient of an objective as one vector."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(objective, list(model.transformer.parameters()))])


def fisher_of(workspace):
    """The Fisher as one vector, in the order of the weights."""
    return torch.cat(
        [workspace.data_fisher[name].flatten() for name, _ in workspace.model.transformer.named_parameters()]
    )


def plain_retain_gradient(workspace, batch):
    """Gradient of ordinary denoising."""
    return gradient(workspace.model, workspace.denoising(batch.noised).denoising.mean())


@pytest.fixture
def setting(make_workspace):
    """A workspace off theta* and a retain batch."""
    workspace = make_workspace()
    return workspace, workspace.draw("retain", 0, 0, batch_size=12, label_dropout=0.1)


def test_gaussian_surrogates_are_standard_normal_under_the_erased_label(make_workspace, method_of):
    workspace = make_workspace((3, 8))
    method = method_of("selective_amnesia", surrogate="gaussian_latents")
    batches = [method.forget_batch(workspace, step, 0, 64).noised for step in range(20)]
    latents = torch.cat([each.latents for each in batches])
    assert latents.mean().abs() < 0.01 and (latents.var() - 1).abs() < 0.01  # of 81,920 draws
    assert latents.mean(0).abs().max() < 0.12
    assert set(torch.cat([each.class_labels for each in batches]).tolist()) == {3, 8}

    # Noise and timesteps are those of any batch, and the latents are noised by them.
    noised, schedule = batches[0], workspace.model.noise_schedule
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[noised.timesteps].float()
    abar = abar[:, None, None, None]
    expected = abar.sqrt() * noised.latents + (1 - abar).sqrt() * noised.noise
    torch.testing.assert_close(noised.noisy_latents, expected, rtol=1e-5, atol=1e-5)
    assert noised.timesteps.min() < 100 and noised.timesteps.max() > 900 and schedule.num_timesteps == 1000
    assert abs(torch.corrcoef(torch.stack([noised.latents.flatten(), noised.noise.flatten()]))[0, 1]) < 0.06


def test_uniform_surrogates_are_random_pixels_through_the_vae(make_workspace, method_of):
    workspace = make_workspace()
    method, seen, encode = method_of("selective_amnesia"), [], workspace.model.encode
    workspace.model.encode = lambda pixels: seen.append(pixels) or encode(pixels)
    latents = method.forget_batch(workspace, 0, 0, 64).noised.latents
    (pixels,) = seen
    assert pixels.shape == (64, 3, 16, 16) and pixels.dtype == torch.uint8
    counts = pixels.flatten().long().bincount(minlength=256).float()
    assert len(counts) == 256 and ((counts - 192) ** 2 / 192).sum() < 330  # chi-square, 255 degrees of freedom, 0.1 %

    # A sample of the posterior, not its mode.
    mean, std = encode(pixels)
    standard = (latents - mean) / std
    assert standard.mean().abs() < 0.06 and (standard.var() - 1).abs() < 0.1


def test_the_surrogate_is_learned_under_the_batch_labels(make_workspace, method_of):
    workspace, method = make_workspace(), method_of("selective_amnesia")
    batch = method.forget_batch(workspace, 0, 0, 12)
    loss = method.forget_loss(workspace, batch)
    noise = workspace.model.predict(batch.noised.noisy_latents, batch.noised.timesteps, torch.full((12,), 3))[:, :4]
    torch.testing.assert_close(loss.objective, (batch.noised.noise - noise).square().mean())
    torch.testing.assert_close(loss.denoising, loss.objective.detach())


def test_penalty_is_the_weighted_square_of_the_way_from_the_original(setting):
    workspace, _ = setting
    way = weights_of(workspace.model) - weights_of(workspace.reference)
    penalty = elastic_penalty(workspace)
    torch.testing.assert_close(penalty, (fisher_of(workspace) * way**2).sum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient(workspace.model, penalty), 2 * fisher_of(workspace) * way, rtol=1e-5, atol=1e-7)


def test_a_fixed_weight_multiplies_the_penalty(setting, method_of):
    workspace, batch = setting
    loss = method_of("selective_amnesia", ewc_weight=3.0).retain_loss(workspace, batch)
    plain = workspace.denoising(batch.noised)
    torch.testing.assert_close(loss.objective, plain.denoising.mean() + 3 * elastic_penalty(workspace))
    torch.testing.assert_close(loss.denoising, plain.simple.mean())
    way = weights_of(workspace.model) - weights_of(workspace.reference)
    expected = plain_retain_gradient(workspace, batch) + 6 * fisher_of(workspace) * way
    torch.testing.assert_close(gradient(workspace.model, loss.objective), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.1, 2.0])
def test_the_ratio_is_that_of_the_gradient_norms(setting, method_of, ratio):
    workspace, batch = setting
    loss = method_of("selective_amnesia", ewc_ratio=ratio).retain_loss(workspace, batch)
    ours = plain_retain_gradient(workspace, batch)
    added = gradient(workspace.model, loss.objective) - ours
    assert added.norm() == pytest.approx(ratio * ours.norm().item(), rel=1e-3)

    # It points along the penalty's own gradient.
    way = 2 * fisher_of(workspace) * (weights_of(workspace.model) - weights_of(workspace.reference))
    torch.testing.assert_close(added / added.norm(), way / way.norm(), rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(loss.denoising, workspace.denoising(batch.noised).simple.mean())


@pytest.mark.parametrize("ratio", [0.1, 0.0])
def test_at_the_original_weights_there_is_no_penalty(make_workspace, method_of, ratio):
    workspace = make_workspace(away=False)
    batch = workspace.draw("retain", 0, 0, batch_size=12, label_dropout=0.1)
    loss = method_of("selective_amnesia", ewc_ratio=ratio).retain_loss(workspace, batch)
    found = gradient(workspace.model, loss.objective)
    torch.testing.assert_close(found, plain_retain_gradient(workspace, batch), rtol=1e-6, atol=1e-8)


def test_weight_and_ratio_exclude_each_other(method_of):
    with pytest.raises(UsageError, match="--ewc-ratio and --ewc-weight exclude each other"):
        method_of("selective_amnesia", ewc_ratio=0.2, ewc_weight=1.0)
    assert method_of("selective_amnesia").needs == {"replay", "reference_model", "data_fisher"}
