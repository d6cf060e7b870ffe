"""Every erasure method against its equation, written again in plain torch.

``retain_posterior`` and ``selective_amnesia`` have files of their own.
"""

import copy

import pytest
import torch

from erase.evidence import simple_loss
from erase.method import other_class
from pipelines.diffusion import denoising_loss
from pipelines.embedding import label_table
from pipelines.pretrain.recipe import recipe_of
from pipelines.pretrain.transformer import build_dit


def predict(model, batch, labels=None):
    """Noise and variance prediction (B, C, H, W) each, for the labels of the batch or others."""
    noised = batch.noised
    labels = noised.class_labels if labels is None else labels
    output = model.transformer(noised.noisy_latents, timestep=noised.timesteps, class_labels=labels)
    return output.sample.split(4, dim=1)


def simple(model, batch, labels=None):
    """|| e - e_hat ||^2 averaged over the elements of each sample, (B,)."""
    return ((batch.noised.noise - predict(model, batch, labels)[0]) ** 2).mean(dim=(1, 2, 3))


def gradient(model, objective):
    """The gradient of an objective as one vector."""
    weights = list(model.transformer.parameters())
    parts = torch.autograd.grad(objective, weights, allow_unused=True, materialize_grads=True, retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def assert_same(model, found, expected):
    """Equal objective and equal gradient."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(model, found), gradient(model, expected), rtol=1e-4, atol=1e-6)


def start(make_workspace, method, *, size=12, **options):
    """Workspace, forget batch and model."""
    workspace = make_workspace(**options)
    return workspace, method.forget_batch(workspace, 0, 0, size), workspace.model


def test_ascent_is_the_negated_mean_loss(make_workspace, method_of):
    method = method_of("gradient_ascent")
    workspace, batch, model = start(make_workspace, method)
    assert_same(model, method.forget_loss(workspace, batch).objective, -simple(model, batch).mean())

    # With the variance term it is the loss that DiT trains with.
    full = method_of("gradient_ascent", forget_vlb="full").forget_loss(workspace, batch)
    output = torch.cat(predict(model, batch), dim=1)
    losses = denoising_loss(model.noise_schedule, output, batch.noised)
    assert_same(model, full.objective, -(losses.simple + losses.vlb).mean())


def test_clamp_stops_the_samples_that_have_lost_enough(make_workspace, method_of):
    workspace, batch, model = start(make_workspace, method_of("gradient_ascent"))
    losses = simple(model, batch)
    limit = losses.detach().sort().values[6].item() + 1e-4
    under = losses.detach() < limit
    assert under.sum() == 7
    method = method_of("gradient_ascent", bound="clamp", max_loss=limit)
    expected = -(losses[under].sum() + 5 * limit) / 12
    assert_same(model, method.forget_loss(workspace, batch).objective, expected)
    method = method_of("gradient_ascent", bound="clamp", max_loss=losses.min().item() / 2)
    assert gradient(model, method.forget_loss(workspace, batch).objective).abs().max() == 0


@pytest.mark.parametrize("beta", [1e-4, 0.3, 5.0])
def test_npo_weighs_each_sample_by_how_little_it_has_lost(make_workspace, method_of, beta):
    """-(2/b) log sigmoid(b d), d = L - L*: the gradient of sample n is that of ascent times 2 sigmoid(-b d_n)."""
    method = method_of("gradient_ascent", bound="npo", npo_beta=beta)
    workspace, batch, model = start(make_workspace, method)
    losses, original = simple(model, batch), simple(workspace.reference, batch)
    objective = method.forget_loss(workspace, batch).objective
    expected = (2 / beta) * (1 + (-beta * (losses - original)).exp()).log()
    torch.testing.assert_close(objective, expected.mean(), rtol=1e-3, atol=1e-3)
    weights = 2 / (1 + (beta * (losses - original)).exp())
    ascent = gradient(model, -(weights.detach() * losses).mean())
    torch.testing.assert_close(gradient(model, objective), ascent, rtol=1e-3, atol=1e-5)


def test_npo_begins_as_ascent_and_ends_in_nothing(make_workspace, method_of):
    method = method_of("gradient_ascent", bound="npo", npo_beta=3.0)
    workspace, batch, model = start(make_workspace, method, away=False)
    plain = gradient(model, -simple(model, batch).mean())
    torch.testing.assert_close(gradient(model, method.forget_loss(workspace, batch).objective), plain)

    # Far from the original, with every loss much higher, it lets go.
    model.transformer.proj_out_2.bias.data += 10
    far = gradient(model, -simple(model, batch).mean())
    assert gradient(model, method.forget_loss(workspace, batch).objective).norm() < 1e-6 * far.norm()


def test_random_labels_are_uniform_over_the_retained_classes(make_workspace, method_of):
    method = method_of("random_label")
    workspace = make_workspace((3, 8))
    seen = []
    workspace.model.predict = lambda latents, timesteps, labels: seen.append(labels) or torch.zeros(64, 8, 4, 4)
    for step in range(60):
        method.forget_loss(workspace, method.forget_batch(workspace, step, 0, 64))
    drawn = torch.stack(seen)
    counts = drawn.flatten().bincount(minlength=11).float()
    assert counts[[3, 8, 10]].sum() == 0
    expected = drawn.numel() / 8
    chi_square = ((counts[workspace.retained_classes] - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 0.1 % of draws with 7 degrees of freedom lie beyond
    assert all(len(labels.unique()) > 1 for labels in drawn)  # per sample, not per batch


def test_random_label_learns_the_forget_images_under_the_drawn_labels(make_workspace, method_of):
    method = method_of("random_label", forget_label_dropout=0.5)
    workspace, batch, model = start(make_workspace, method)
    seen, call = [], model.predict
    model.predict = lambda latents, timesteps, labels: seen.append(labels) or call(latents, timesteps, labels)
    objective = method.forget_loss(workspace, batch).objective
    assert_same(model, objective, simple(model, batch, seen[0]).mean())
    dropped = batch.noised.class_labels == 10
    assert 0 < dropped.sum() < 12 and torch.equal(seen[0] == 10, dropped)  # a dropped label is not drawn again


@pytest.mark.parametrize(
    ("forget", "offset", "others"),
    [
        ((3,), 100, {3: 4}),  # 103 mod 10 is the class itself
        ((3,), 4, {3: 7}),
        ((3, 7), 4, {3: 8, 7: 1}),  # 7 is erased, so 8; 11 mod 10
        ((9,), 1, {9: 0}),
        ((8, 9, 0), 1, {8: 1, 9: 1, 0: 1}),
    ],
)
def test_relabel_takes_one_fixed_other_label(make_workspace, method_of, forget, offset, others):
    method = method_of("relabel", label_offset=offset)
    workspace, batch, model = start(make_workspace, method, forget_classes=forget)
    labels = torch.tensor([others[label] for label in batch.noised.class_labels.tolist()])
    assert set(batch.noised.class_labels.tolist()) == set(forget)
    assert_same(model, method.forget_loss(workspace, batch).objective, simple(model, batch, labels).mean())


def test_the_other_label_is_never_an_erased_one(make_workspace):
    workspace = make_workspace((2, 3, 4, 9))
    found = {(c, offset): other_class(workspace, c, offset=offset) for c in (2, 3, 4, 9) for offset in range(1, 120)}
    assert set(found.values()) == set(workspace.retained_classes)
    assert found[2, 100] == 5 and found[9, 1] == 0


@pytest.mark.parametrize("target_model", ["current", "reference"])
def test_salun_regresses_on_a_detached_target(make_workspace, method_of, target_model):
    method = method_of("salun", target_model=target_model)
    workspace, batch, model = start(make_workspace, method, forget_classes=(3, 4))
    labels = torch.full((12,), 5)  # the next class that is not erased, for 3 as for 4
    with torch.no_grad():
        target = predict(model if target_model == "current" else workspace.reference, batch, labels)[0]
    expected = (predict(model, batch)[0] - target).square().mean()
    loss = method.forget_loss(workspace, batch)
    assert_same(model, loss.objective, expected)
    torch.testing.assert_close(loss.denoising, simple(model, batch).mean())

    # A target with a gradient would pull both ends together: another number.
    both = (predict(model, batch)[0] - predict(model, batch, labels)[0]).square().mean()
    assert (gradient(model, loss.objective) - gradient(model, both)).norm() > 0.1 * gradient(model, both).norm()


@pytest.mark.parametrize("name", ["salun", "random_label", "relabel", "retain_posterior"])
def test_the_mask_is_the_top_share_of_the_summed_gradient(make_workspace, method_of, name):
    workspace = make_workspace(away=False)
    masks = method_of(name, mask_fraction=0.3).masks(workspace)
    assert masks.retain is (masks.forget if name == "salun" else None)
    order = list(masks.forget)
    assert order == [key for key, _ in workspace.model.transformer.named_parameters()]

    # The same 20 batches of 64, written out; the threshold is one for all weights together.
    loss = simple_loss(workspace, workspace.forget, "forget", batch_size=64)
    total = sum(gradient(workspace.model, loss(index)) for index in range(20)).abs()
    chosen = torch.cat([masks.forget[key].flatten() for key in order])
    table = next(key for key in order if key.endswith("embedding_table.weight"))
    wanted = round(0.3 * total.numel())
    assert chosen.sum() == wanted + (16 if name == "retain_posterior" else 0)
    if name == "retain_posterior":  # the null row has no evidence, and is trained
        assert masks.forget[table][10].all()
        return
    assert total[chosen].min() >= total[~chosen].max() * (1 - 1e-4)
    assert not masks.forget[table][[0, 1, 2, 4, 5, 10]].any()
    assert method_of(name, mask_fraction=0.0).masks(workspace).forget is None


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_sfron_weighs_samples_by_their_loss(make_workspace, method_of, power):
    method = method_of("sfron", weight_power=power)
    workspace, batch, model = start(make_workspace, method)
    losses = simple(model, batch)
    weights = losses.detach() ** -power / (losses.detach() ** -power).sum()
    assert weights.sum() == pytest.approx(1)
    loss = method.forget_loss(workspace, batch)
    assert_same(model, loss.objective, -(weights * losses).sum())
    torch.testing.assert_close(loss.denoising, losses.mean())
    if power == 0:
        assert_same(model, loss.objective, -losses.mean())


def test_sfron_masks_the_forget_side_by_the_ratio(make_workspace, method_of):
    workspace = make_workspace()
    forget, data = workspace.forget_fisher, workspace.data_fisher
    against_all = 2.0 / (0.9 + 2.0 * 0.1)  # a tenth of all images is of the class
    everything = torch.cat([each.flatten() for each in data.values()])
    floor = 0.01 * everything.sort().values[(everything.numel() - 1) // 2 + 1 - everything.numel() % 2]
    masks = method_of("sfron", mask_threshold=2.0).masks(workspace)
    assert masks.retain is None
    differing = sum(
        ((forget[key] / data[key].maximum(floor) >= against_all) != mask).sum() for key, mask in masks.forget.items()
    )
    share = sum(mask.sum() for mask in masks.forget.values()) / everything.numel()
    assert differing == 0 and 0.3 < share < 0.5  # of a ratio F with (1, 1) degrees of freedom 41 % lie above 1.8


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_esd_turns_away_from_the_class(make_workspace, method_of, eta):
    method = method_of("esd", negative_guidance=eta)
    workspace, batch, model = start(make_workspace, method)
    with torch.no_grad():
        null = predict(workspace.reference, batch, torch.full((12,), 10))[0]
        conditional = predict(workspace.reference, batch)[0]
    target = null - eta * (conditional - null) if eta else null
    loss = method.forget_loss(workspace, batch)
    assert_same(model, loss.objective, ((predict(model, batch)[0] - target) ** 2).mean())
    torch.testing.assert_close(loss.denoising, simple(model, batch).mean())
    assert torch.equal(batch.noised.class_labels, torch.full((12,), 3))


def test_embedding_reset_copies_the_null_row_and_touches_nothing_else(make_workspace, method_of):
    workspace = make_workspace((3, 7))
    before = copy.deepcopy(dict(workspace.model.transformer.named_parameters()))
    method_of("embedding_reset").edit(workspace)
    after = dict(workspace.model.transformer.named_parameters())
    (changed,) = [name for name in before if not torch.equal(before[name], after[name])]
    table = label_table(workspace.model.transformer)
    assert after[changed] is table
    assert torch.equal(table[3], before[changed][10]) and torch.equal(table[7], before[changed][10])
    kept = [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert torch.equal(table[kept], before[changed][kept])


def test_retraining_never_sees_the_forget_set(make_workspace, method_of):
    workspace, poisoned = make_workspace((3, 7)), make_workspace((3, 7))
    poisoned.forget.mean.fill_(torch.nan)
    for each in (workspace, poisoned):
        method_of("retrain").edit(each)
    weights, others = (dict(each.model.transformer.named_parameters()) for each in (workspace, poisoned))
    assert all(torch.equal(weights[name], others[name]) for name in weights)

    # The rows of the erased classes are those of a new network, the others are trained.
    untrained = build_dit(
        workspace.model.vae, list(workspace.model.classes.labels), recipe_of(workspace.model.provenance)
    )
    moved = (label_table(workspace.model.transformer) != label_table(untrained.transformer)).any(dim=1)
    assert moved.nonzero()[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
