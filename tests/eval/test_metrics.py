"""Every file of eval/metrics held to the contract, then each metric against a closed form or a reference."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torchmetrics.image.inception import InceptionScore

from eval.metric import Batch, Context, displays, metric_class, metric_names, title
from eval.metrics.erased_appearance import entropy, histogram
from eval.metrics.precision_recall import inside, radii
from eval.moments import Moments
from eval.reference import Reference
from eval.values import share, wilson
from pipelines.errors import UsageError

K, D = 6, 8


def context_of(*, reference_features=None, removed_features=None, training_features=None, forget_classes=(1, 4)):
    features = torch.randn(200, D, generator=torch.Generator().manual_seed(1))
    features = features if reference_features is None else reference_features
    reference = Reference(
        gaussian=Moments(D).update(features).gaussian(),
        features=features,
        accuracy=share(1, 1),
        feature_space="toy",
        description="toy",
        fingerprint="",
        removed_features=torch.empty(0, D) if removed_features is None else removed_features,
    )
    training = torch.empty(0, D) if training_features is None else training_features
    return Context(
        forget_classes=forget_classes, num_classes=K, reference=reference, training_features=training, seed=0,
        inception_head=torch.randn(9, D, generator=torch.Generator().manual_seed(3)),
    )  # fmt: skip


def batch_of(n=120, *, seed=0, forget_classes=(1, 4)):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        images=torch.randint(0, 256, (n, 3, 5, 5), generator=generator, dtype=torch.uint8),
        class_labels=torch.randint(0, K, (n,), generator=generator),
        logits=torch.randn(n, K, generator=generator),
        features=torch.randn(n, D, generator=generator),
        forget_classes=forget_classes,
    )


def part_of(batch, rows):
    fields = ("images", "class_labels", "logits", "features")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in fields})


def computed(name, batches, context):
    metric = metric_class(name)(context)
    for batch in batches:
        metric.update(batch)
    return metric.compute()


@pytest.fixture
def context():
    return context_of(training_features=torch.randn(150, D, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("name", metric_names())
class TestContract:
    def test_values_are_displayed_and_json(self, name, context):
        values = computed(name, [batch_of()], context)
        shown = {show.key for show in metric_class(name).shows}
        assert set(values) <= shown and values
        for value in values.values():
            assert math.isfinite(value.value)
            assert json.loads(json.dumps(value.to_dict(), allow_nan=False))["n"] > 0
            if value.low is not None:
                assert value.low <= value.value <= value.high

    def test_batches_and_shards_change_nothing(self, name, context):
        batch = batch_of()
        whole = computed(name, [batch], context)
        parts = [part_of(batch, rows) for rows in torch.arange(120).tensor_split(7)]
        merged = metric_class(name)(context)
        for half in (parts[:3], parts[3:]):
            worker = metric_class(name)(context)
            for part in half:
                worker.update(part)
            merged.absorb(worker.state())
        for values in (computed(name, parts, context), merged.compute()):
            for key, value in values.items():
                assert value.value == pytest.approx(whole[key].value, abs=1e-9)
                assert value.n == whole[key].n

    def test_nothing_seen_gives_no_value(self, name, context):
        assert all(value.value is None and value.n == 0 for value in computed(name, [], context).values())

    def test_one_sided_batches_pass(self, name, context):
        batch = batch_of()
        for rows in (batch.is_forget, ~batch.is_forget):
            json.dumps({key: v.to_dict() for key, v in computed(name, [part_of(batch, rows)], context).items()})

    def test_unreadable_images_are_counted_not_dropped(self, name, context):
        batch = batch_of()
        batch.logits[::3], batch.features[::3] = float("nan"), float("inf")
        values = computed(name, [batch], context)
        text = json.dumps({key: value.to_dict() for key, value in values.items()}, allow_nan=False)
        assert text
        clean = computed(name, [batch_of()], context)
        assert all(value.n == clean[key].n for key, value in values.items())


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(UsageError, match="forget_accuracy"):
        metric_class("fid")


def test_only_inception_features_earn_the_name_fid():
    assert title("frechet", "digits") == "Frechet distance (digits features)"
    assert (title("frechet", "inception"), title("kid", "inception")) == ("FID", "KID")
    assert len(displays()) == sum(len(metric_class(name).shows) for name in metric_names())


def labelled(labels, predicted, *, forget_classes=(1,)):
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), K).float() * 20
    n = len(labels)
    return Batch(
        images=torch.zeros(n, 3, 2, 2, dtype=torch.uint8),
        class_labels=torch.tensor(labels),
        logits=logits,
        features=torch.zeros(n, D),
        forget_classes=forget_classes,
    )


def test_forget_accuracy_counts_the_class_that_was_asked_for():
    batch = labelled([1, 1, 1, 4, 4, 0], [1, 4, 0, 4, 4, 1], forget_classes=(1, 4))
    values = computed("forget_accuracy", [batch], context_of())
    found = values["forget_accuracy"]
    assert (found.value, found.n) == (3 / 5, 5)
    assert (found.low, found.high) == wilson(3, 5)
    per_class = found.detail["per_class"]
    assert [(per_class[key]["value"], per_class[key]["n"]) for key in ("1", "4")] == [(1 / 3, 3), (1.0, 2)]
    assert values["forget_probability"].value == pytest.approx(3 / 5, abs=1e-6)
    assert (values["forget_accuracy_any"].value, values["forget_accuracy_any"].n) == (4 / 5, 5)  # a one drawn as a four
    assert "forget_accuracy_any" not in computed("forget_accuracy", [batch], context_of(forget_classes=(1,)))


def test_non_finite_logits_recognise_nothing():
    batch = labelled([1, 1], [1, 1])
    batch.logits[0] = float("nan")
    values = computed("forget_accuracy", [batch], context_of(forget_classes=(1,)))
    assert (values["forget_accuracy"].value, values["forget_accuracy_top5"].n) == (0.5, 2)


def test_retain_accuracy_is_the_mean_over_classes_not_over_images():
    batch = labelled([0, 0, 0, 0, 2, 1], [0, 0, 0, 0, 3, 1])
    value = computed("retain_accuracy", [batch], context_of(forget_classes=(1,)))["retain_accuracy"]
    assert (value.value, value.n) == (0.5, 5)
    assert (value.low, value.high) == pytest.approx(wilson(0.5 * 3.2, 3.2))  # 2^2 / (1/4 + 1/1)


def test_the_interval_of_a_balanced_mean_is_wilsons_when_the_classes_are_equal():
    batch = labelled([0, 0, 2, 2], [0, 3, 2, 2])
    value = computed("retain_accuracy", [batch], context_of(forget_classes=(1,)))["retain_accuracy"]
    assert (value.low, value.high) == pytest.approx(wilson(3, 4))


def test_leakage_looks_at_retained_labels_only():
    batch = labelled([0, 2, 3, 1], [1, 2, 3, 1])
    assert computed("leakage", [batch], context_of(forget_classes=(1,)))["leakage"].value == pytest.approx(1 / 3)


def test_the_erased_label_is_described_by_what_it_draws():
    batch = labelled([1, 1, 1, 1, 0], [2, 2, 3, 1, 0])
    values = computed("erased_appearance", [batch], context_of(forget_classes=(1,)))
    assert values["erased_top_share"].value == 0.5
    assert values["erased_entropy"].value == pytest.approx(1.5)
    described = values["erased_top_share"].detail["per_class"]["1"]
    assert described["counts"] == {"2": 2, "1": 1, "3": 1}
    assert described["nearest"][:2] == [2, 3]
    assert 1 not in described["nearest"]


def test_entropy_of_a_uniform_histogram_is_its_logarithm():
    assert entropy(torch.tensor([5, 5, 5, 5, 0])) == pytest.approx(2)
    assert entropy(torch.tensor([7, 0])) == entropy(torch.tensor([0, 0])) == 0
    assert histogram(torch.tensor([0, 2, 5, 1])) == {"2": 5, "1": 2, "unreadable": 1}


def test_frechet_of_equal_features_is_zero_and_of_few_is_not():
    features = torch.randn(400, D, generator=torch.Generator().manual_seed(5))
    context = context_of(reference_features=features)
    batch = replace(batch_of(400), features=features, class_labels=torch.zeros(400, dtype=torch.long))
    value = computed("frechet", [batch], context)["frechet"]
    assert value.value == pytest.approx(0, abs=1e-6)
    assert value.detail["reference_n"] == 400
    few = computed("frechet", [part_of(batch, torch.arange(D))], context)["frechet"]
    assert few.value > 0


def test_radii_and_manifolds_on_a_line():
    line = torch.arange(6.0)[:, None]
    assert radii(line, 3).tolist() == [3, 2, 2, 2, 2, 3]
    assert inside(torch.tensor([[-2.9], [-3.1], [2.5], [8.5]]), line, k=3).tolist() == [True, False, True, False]


def test_recall_falls_and_precision_stays_when_half_the_variety_is_lost():
    generator = torch.Generator().manual_seed(6)
    ends = torch.randn(300, D, generator=generator) + torch.tensor([20.0, -20.0]).repeat(150)[:, None]
    fake = torch.randn(300, D, generator=generator) + 20
    batch = replace(batch_of(300), features=fake, class_labels=torch.zeros(300, dtype=torch.long))
    values = computed("precision_recall", [batch], context_of(reference_features=ends))
    assert values["precision"].value > 0.7
    assert 0.3 < values["recall"].value <= 0.5


def test_an_erased_label_that_draws_no_image_of_any_class_has_collapsed():
    """One of two labels draws images like those of the erased class and of another, the other label's are like none."""
    generator = torch.Generator().manual_seed(9)
    rest, erased = (torch.randn(300, D, generator=generator) + shift for shift in (0, 20))
    fake = torch.randn(400, D, generator=generator) * 0.3
    fake[:100], fake[200:] = fake[:100] + 20, fake[200:] - 40
    fake[0] = float("nan")
    batch = replace(batch_of(400), features=fake, class_labels=torch.tensor([1, 4]).repeat_interleave(200))
    context = context_of(reference_features=rest, removed_features=erased)
    value = computed("forget_precision", [batch], context)["forget_precision"]
    shares = {label: entry["value"] for label, entry in value.detail["per_class"].items()}
    assert (shares, value.value, value.n) == ({"1": 199 / 200, "4": 0.0}, 199 / 400, 400)
    assert value.detail["reference_n"] == 600
    known = computed("forget_precision", [batch], context_of(reference_features=rest))["forget_precision"]
    assert known.value == 100 / 400
    others = replace(batch, class_labels=torch.zeros(400, dtype=torch.long))
    assert computed("forget_precision", [others], context)["forget_precision"].value is None


def test_degenerate_images_are_told_apart():
    batch = labelled([0, 0, 0, 0, 1], [0, 0, 0, 0, 1])
    noise = torch.randint(0, 256, (3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch.images[1] = torch.tensor([[[0, 0], [0, 1]]] * 3, dtype=torch.uint8) + 100
    batch.images[2], batch.images[3], batch.images[4] = noise, noise, noise
    batch.features[3] = float("nan")
    values = computed("degenerate_rate", [batch], context_of(forget_classes=(1,)))
    retain = values["retain_degenerate_rate"]
    assert (retain.value, values["forget_degenerate_rate"].value) == (0.75, 0)
    assert dict(retain.detail) == {"constant": 1, "nearly_constant": 1, "unreadable": 1}


def test_a_red_square_is_constant_although_its_channels_differ():
    batch = labelled([0], [0])
    batch.images[0] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    values = computed("degenerate_rate", [batch], context_of(forget_classes=(1,)))
    assert values["retain_degenerate_rate"].detail["constant"] == 1


def test_copies_of_training_images_are_found():
    generator = torch.Generator().manual_seed(7)
    training, fresh = torch.randn(200, D, generator=generator), torch.randn(200, D, generator=generator)
    copies = torch.cat([training[:50] + 1e-3, fresh[:150]])
    batch = replace(batch_of(200), features=copies, class_labels=torch.zeros(200, dtype=torch.long))
    context = context_of(training_features=training, reference_features=torch.randn(200, D, generator=generator))
    value = computed("nearest", [batch], context)["copying"]
    assert value.value == pytest.approx(0.25 + 0.75 / 2, abs=0.08)


def test_drawing_too_little_variety_is_not_copying():
    generator = torch.Generator().manual_seed(8)
    training, held_out, fresh = (torch.randn(300, D, generator=generator) for _ in range(3))
    batch = replace(batch_of(300), features=fresh * 0.3, class_labels=torch.zeros(300, dtype=torch.long))
    context = context_of(training_features=training, reference_features=held_out)
    assert computed("nearest", [batch], context)["copying"].value == pytest.approx(0.5, abs=0.1)


def test_the_inception_score_is_that_of_torchmetrics(context):
    """torchmetrics takes the logits as features of a network of our own, and one split."""
    batches = [batch_of(seed=seed) for seed in range(3)]
    found = computed("inception_score", batches, context)["inception_score"]
    features = torch.cat([batch.retained_features for batch in batches])
    theirs = InceptionScore(feature=torch.nn.Flatten(), splits=1, normalize=True)
    theirs.features = [features @ context.inception_head.T]
    assert found.value == pytest.approx(theirs.compute()[0].item(), rel=1e-5) and found.n == len(features)


def test_the_inception_score_lies_between_one_and_the_number_of_kinds(context):
    sure = replace(context, inception_head=1000 * torch.eye(D)[:5])
    batch = replace(batch_of(100), class_labels=torch.zeros(100, dtype=torch.long))
    alike, varied = torch.zeros(100, D), torch.eye(D)[torch.arange(100) % 5]
    assert computed("inception_score", [replace(batch, features=alike)], sure)[
        "inception_score"
    ].value == pytest.approx(1)
    assert computed("inception_score", [replace(batch, features=varied)], sure)[
        "inception_score"
    ].value == pytest.approx(5)
    broken = replace(batch, features=varied.index_fill(0, torch.tensor([3]), torch.nan))
    assert computed("inception_score", [broken], sure)["inception_score"].value is None
