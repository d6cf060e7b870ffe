"""Diffusion as a task of the engine: batches by side, a fixed probe, the travel of label rows, the attacker's loss."""

import dataclasses

import pytest
import torch

from erase.config import EngineConfig
from erase.diffusion_task import PROBE_IMAGES, DiffusionTask
from erase.workspace import Batch
from pipelines.diffusion import Noised
from pipelines.embedding import label_table
from pipelines.latents import Latents

ENGINE = EngineConfig(forget_batch_size=6, retain_batch_size=10)


@pytest.fixture
def make_task(make_workspace, method_of):
    """``make_task("esd", ...)``: a task with small batches."""

    def make(name="gradient_ascent", *, scorer=None, forget_classes=(3,), away=False, **options):
        workspace = make_workspace(forget_classes, away=away)
        return DiffusionTask(workspace=workspace, method=method_of(name, **options), engine=ENGINE, scorer=scorer)

    return make


def test_parameters_are_the_transformers_alone(make_task):
    task = make_task()
    named = dict(task.workspace.model.transformer.named_parameters())
    assert task.parameters.keys() == named.keys()
    assert all(task.parameters[name] is named[name] for name in named)
    assert all(each.requires_grad for each in task.parameters.values())


def test_batches_have_their_side_their_size_and_their_label_dropout(make_task):
    task = make_task("relabel", retain_label_dropout=0.5, forget_label_dropout=0.3)
    retain = torch.cat([task.retain_batch(step, 0).noised.class_labels for step in range(40)])
    forget = torch.cat([task.forget_batch(step, 0).noised.class_labels for step in range(60)])
    assert len(retain) == 400 and len(forget) == 360
    assert not (retain == 3).any() and (retain == 10).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert set(forget.tolist()) == {3, 10} and (forget == 10).float().mean().item() == pytest.approx(0.3, abs=0.08)


def test_the_attacker_trains_the_class_under_its_own_label(make_task):
    task = make_task("relabel", forget_label_dropout=0.5, forget_classes=(3, 8))
    batches = [task.relearning_batch(step, phase, size=6) for step in range(3) for phase in range(3)]
    assert set(torch.cat([each.noised.class_labels for each in batches]).tolist()) == {3, 8}
    seeds = {each.seed for each in batches} | {
        task.forget_batch(step, phase).seed for step in range(3) for phase in range(3)
    }
    assert len(seeds) == 18  # no batch is shared with another, or with a forget phase

    noised = batches[0].noised
    output = task.workspace.predict(noised)
    simple = (noised.noise - output[:, :4]).square().mean()
    loss = task.relearning_loss(batches[0])
    assert loss.requires_grad and loss > simple  # the variance term is never negative
    torch.testing.assert_close(loss, task.workspace.denoising(noised).denoising.mean())


def test_the_probe_is_one_batch_from_every_retained_class(make_task):
    task = make_task()
    labels = task.probe.noised.class_labels
    assert labels.unique().tolist() == task.workspace.retained_classes and len(labels) == PROBE_IMAGES[0]
    first = task.probe_loss()
    task.retain_loss(task.retain_batch(3, 0))
    assert isinstance(first, float) and task.probe_loss() == first
    noised = task.probe.noised
    expected = (noised.noise - task.workspace.predict(noised)[:, :4]).square().mean()
    assert first == pytest.approx(expected.item(), rel=1e-5)


def test_a_large_probe_is_spread_over_the_set(make_workspace, method_of, toy_latents):
    """A folder is sorted by class: its first images would watch one class alone."""
    workspace = make_workspace((3,))
    kept = workspace.retain
    repeated = kept.class_labels.repeat_interleave(50)
    means = kept.mean.repeat_interleave(50, dim=0)
    workspace.retain = Latents.in_memory(mean=means, std=torch.zeros_like(means), class_labels=repeated)
    least, most = PROBE_IMAGES
    for batch_size, size in ((1, least), (90, 90), (10 * most, most)):
        engine = dataclasses.replace(ENGINE, retain_batch_size=batch_size)
        task = DiffusionTask(workspace=workspace, method=method_of("gradient_ascent"), engine=engine)
        counts = task.probe.noised.class_labels.bincount(minlength=10)
        assert counts.sum() == size and counts[3] == 0
        assert counts[workspace.retained_classes].max() - counts[workspace.retained_classes].min() <= 1


def test_losses_are_the_methods(make_task):
    task = make_task("sfron")
    batch = task.forget_batch(0, 0)
    own = task.method.forget_loss(task.workspace, batch)
    assert torch.equal(task.forget_loss(batch).objective, own.objective)
    batch = task.retain_batch(0, 0)
    loss, plain = task.retain_loss(batch), task.workspace.denoising(batch.noised)
    torch.testing.assert_close(loss.objective, (plain.simple + plain.vlb).mean())
    torch.testing.assert_close(loss.denoising, plain.simple.mean())


def test_travel_is_how_far_the_rows_have_moved(make_task):
    task = make_task(forget_classes=(3, 8))
    assert task.travel() == {"erased_row_travel": 0, "null_row_travel": 0}
    with torch.no_grad():
        table = label_table(task.workspace.model.transformer)
        table[3, :2] += torch.tensor([3.0, 4.0])
        table[8, 0] += 1.0
        table[10, 5] -= 2.0
        table[0] += 100.0
    travel = task.travel()
    assert travel["erased_row_travel"] == pytest.approx(3, rel=1e-5)
    assert travel["null_row_travel"] == pytest.approx(2, rel=1e-5)


def test_attackers_begin_at_known_rows(make_task):
    """Row j for class j in turn: the class's own row, the null row, the mean of the retained rows, or one of them."""
    task = make_task(forget_classes=(3, 8))
    table = label_table(task.workspace.model.transformer).detach()
    retained = task.workspace.retained_classes
    known, seen = torch.cat([table, table[retained].mean(0, keepdim=True)]), {3: set(), 8: set()}
    for step in range(20):
        starts = task.attack_starts(step, 0, count=7)
        assert not starts.requires_grad and torch.equal(starts, task.attack_starts(step, 0, count=7))
        for number, start in enumerate(starts):
            place = (known - start).norm(dim=1).argmin().item()
            torch.testing.assert_close(start, known[place])
            seen[(3, 8)[number % 2]].add(place)
    for label, places in seen.items():
        assert {label, 10, 11} < places <= {label, 10, 11, *retained}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_image_is_drawn_under_a_row_of_its_class(make_task, checkpointing):
    """The same output and gradient as with the rows written into the table, image by image; outside nothing is left."""
    task = make_task("relabel", forget_classes=(3, 8))
    model, batch = task.workspace.model, task.relearning_batch(0, 0, size=6)
    if checkpointing:
        model.transformer.enable_gradient_checkpointing()
    rows = torch.randn(5, label_table(model.transformer).shape[1], generator=torch.Generator().manual_seed(0))
    rows.requires_grad_(True)
    with task.attacked_by(rows, batch):
        output = task.workspace.predict(batch.noised)
        (found,) = torch.autograd.grad(output.square().sum(), [rows])

    table, expected = label_table(model.transformer), torch.zeros_like(rows)
    turns = {3: (0, 2), 8: (1, 3)}  # the rows of each class; with two classes the fifth is nobody's
    for number, label in enumerate(batch.noised.class_labels.tolist()):
        place = turns[label][number // 2 % 2]
        with torch.no_grad():
            saved = table[label].clone()
            table[label] = rows[place]
        one = Noised(*(tensor[number : number + 1] for tensor in vars(batch.noised).values()))
        alone = task.workspace.predict(one)
        torch.testing.assert_close(alone[0], output[number], rtol=1e-4, atol=1e-5)
        expected[place] += torch.autograd.grad(alone.square().sum(), [table])[0][label]
        with torch.no_grad():
            table[label] = saved
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(task.workspace.predict(batch.noised), output)


def test_attacked_images_are_all_under_erased_labels(make_task):
    """Half of the forget batch trains the null row; under attack these images have erased labels in turn."""
    task = make_task("retain_posterior", forget_classes=(3, 8), null_share=0.5, replacement="posterior")
    batch = task.forget_batch(0, 0)
    labels = batch.noised.class_labels
    assert (labels == 10).any()
    expected = torch.where(labels == 10, torch.tensor([3, 8]).repeat(3), labels)
    relabelled = Batch(batch.noised.relabelled(expected), batch.seed)
    assert torch.equal(task.attacked_label_loss(batch).objective, task.forget_loss(relabelled).objective)


def test_under_an_attacked_row_only_the_mixture_is_the_target(make_task):
    """A row may lie beside a retained one, where the replacement class would be wrong."""
    task, mixture = make_task("retain_posterior"), make_task("retain_posterior", replacement="posterior")
    batch = task.relearning_batch(0, 0, size=6)
    attacked = task.attacked_label_loss(batch).objective
    assert torch.equal(attacked, mixture.forget_loss(batch).objective)
    assert not torch.equal(attacked, task.forget_loss(batch).objective)


def test_a_score_needs_a_scorer(make_task):
    scores = {"forget_accuracy": 0.1, "retain_accuracy": 0.9}
    assert make_task(scorer=lambda: scores).score() == scores
    with pytest.raises(ValueError, match="an early stop needs a classifier"):
        make_task().score()
