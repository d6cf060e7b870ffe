"""The whole evaluation on a model whose denoiser is known in closed form."""

import json
from dataclasses import replace

import pytest
import torch

from eval.evaluate import (
    choose_metrics,
    draw_samples,
    evaluate,
    feed,
    forget_accuracy,
    read_record,
    results,
    write_record,
)
from eval.metric import Context, metric_class, metric_names
from eval.moments import Gaussian, Moments
from eval.plan import image_seed, plan_requests, shard
from eval.reference import Observations, Reference, reference_from_observations
from pipelines.errors import MissingError, UsageError
from pipelines.generate import generate, generate_all


@pytest.fixture
def protocol(toy):
    return replace(toy.protocol, num_forget_images=40, num_retain_images=80, num_inference_steps=8)


@pytest.fixture
def record(toy, original, erased, protocol):
    return evaluate(
        {"original": original, "erased": erased},
        forget_classes=[3],
        protocol=protocol,
        scorer=toy.scorer,
        reference=toy.reference,
        training_features=toy.training.without((3,)).features,
    )


def test_a_clean_erasure_reads_as_one(record):
    before, after = record["original"], record["erased"]
    assert (before["forget_accuracy"]["value"], after["forget_accuracy"]["value"]) == (1, 0)
    assert before["forget_accuracy"]["n"] == 40
    assert record["delta"]["forget_accuracy"]["value"] == -1
    assert record["delta"]["forget_accuracy"]["high"] < -0.8
    assert after["retain_accuracy"]["value"] == 1
    assert after["erased_top_share"]["detail"]["per_class"]["3"]["counts"] == {"4": 40}
    # The untouched classes draw the very same images, so nothing else may change by a digit.
    for key in ("retain_accuracy", "frechet", "kid", "precision", "recall", "leakage", "copying"):
        assert after[key] == before[key]
    assert before["copying"]["low"] < 0.5 < before["copying"]["high"]
    assert before["precision"]["value"] > 0.6


def test_the_record_holds_everything_that_moves_a_number(record, toy, protocol):
    assert record["protocol"]["classifier"] == toy.scorer.name
    assert record["protocol"]["reference"] == "toy held-out images"
    assert record["protocol"]["num_inference_steps"] == 8
    assert record["class_names"][3] == "three"
    assert record["reference"]["n"] == 240
    assert record["models"] == {"original": {"source": "toy"}, "erased": {"source": "toy"}}
    assert {"python", "torch", "diffusers"} <= set(record["versions"])
    assert 3 not in record["neighbours"] and len(record["neighbours"]) == 3
    assert record["erased"]["neighbour_accuracy"]["n"] == 60
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_batch_size_changes_no_value(record, toy, original, erased, protocol):
    again = evaluate(
        {"original": original, "erased": erased},
        forget_classes=[3],
        protocol=protocol,
        scorer=toy.scorer,
        reference=toy.reference,
        training_features=toy.training.without((3,)).features,
        batch_size=17,
    )
    for key, entry in record["erased"].items():
        assert again["erased"][key]["value"] == pytest.approx(entry["value"], abs=1e-6)


def test_shards_of_one_plan_absorb_into_the_same_values(record, toy, original, protocol):
    context = Context(
        forget_classes=(3,),
        num_classes=5,
        reference=toy.reference,
        training_features=toy.training.without((3,)).features,
        seed=protocol.first_seed,
    )
    requests = plan_requests(protocol, num_classes=5, forget_classes=[3])
    names, _ = choose_metrics(metric_names(), context)
    merged = [metric_class(name)(context) for name in names]
    for index in range(3):
        drawn = generate(original, shard(requests, index, 3), protocol.sampler_settings(), batch_size=13)
        for metric, part in zip(merged, feed(names, drawn, scorer=toy.scorer, context=context), strict=True):
            metric.absorb(part.state())
    for key, entry in results(merged).items():
        assert entry["value"] == pytest.approx(record["original"][key]["value"], abs=1e-6)


def test_metrics_without_what_they_need_are_listed_not_dropped(toy, original, erased, protocol):
    statistics = Reference(**{**vars(toy.reference), "features": torch.empty(0, toy.scorer.num_features)})
    record = evaluate(
        {"original": original, "erased": erased},
        forget_classes=[3],
        protocol=protocol,
        scorer=toy.scorer,
        reference=statistics,
        metrics=["frechet", "kid", "nearest", "forget_accuracy"],
    )
    assert record["skipped"] == {
        "kid": "needs reference features",
        "nearest": "needs reference features and training features",
    }
    assert set(record["erased"]) == {"frechet", "forget_accuracy", "forget_probability"}
    assert record["neighbours"] == []
    assert "nearest" in metric_names()


def test_several_forget_classes_are_pooled_and_listed(toy, original, erased, protocol):
    record = evaluate(
        {"original": original, "erased": erased, "twice": original},
        forget_classes=[3, 0],
        protocol=protocol,
        scorer=toy.scorer,
        reference=toy.reference,
        metrics=["forget_accuracy"],
    )
    found = record["erased"]["forget_accuracy"]
    assert (found["value"], found["n"]) == (0.5, 80)
    assert [found["detail"]["per_class"][key]["value"] for key in ("3", "0")] == [0, 1]
    assert record["twice"] == record["original"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"models": ["original"]}, "original and an erased"),
        ({"forget_classes": [9]}, "forget class 9"),
        ({"width": 3}, "the reference holds 3 toy features"),
        ({"space": "inception"}, "inception features"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_image(toy, original, protocol, change, match):
    reference = toy.reference
    if "width" in change:
        gaussian = Gaussian(mean=torch.zeros(3), covariance=torch.eye(3), n=9)
        reference = Reference(**{**vars(reference), "gaussian": gaussian})
    if "space" in change:
        reference = Reference(**{**vars(reference), "feature_space": change["space"]})
    with pytest.raises(UsageError, match=match):
        evaluate(
            dict.fromkeys(change.get("models", ["original", "erased"]), original),
            forget_classes=change.get("forget_classes", [3]),
            protocol=protocol,
            scorer=toy.scorer,
            reference=reference,
        )


def test_the_sampled_classes_are_the_gaussians_of_the_model(toy, original):
    protocol = replace(toy.protocol, sampler="ddpm", num_inference_steps=60)
    requests = [(2, seed) for seed in range(300)]
    images = generate_all(original, requests, protocol.sampler_settings())
    _, features = toy.scorer.logits_and_features(images)
    found = Moments(features.shape[1]).update(features).gaussian()
    torch.testing.assert_close(found.mean.float(), original.transformer.means[2].detach(), atol=0.08, rtol=0)


def test_samples_are_the_first_images_of_the_evaluation(toy, original, erased, protocol):
    drawn = draw_samples({"original": original, "erased": erased}, [3, 1], protocol=protocol, num_images=4)
    assert drawn["original"].shape == (2, 4, 3, 4, 4)
    assert torch.equal(drawn["original"][1], drawn["erased"][1])
    assert not torch.equal(drawn["original"][0], drawn["erased"][0])
    first = generate_all(original, [(1, image_seed(0, 1, 2))], protocol.sampler_settings())[0]
    assert (drawn["original"][1, 2].int() - first.int()).abs().max() <= 1


def test_a_single_class_can_be_scored_alone(toy, original, erased, protocol):
    value, pictures = forget_accuracy(original, 3, protocol=protocol, scorer=toy.scorer, num_images=20, batch_size=6)
    assert (value.value, value.n, len(pictures)) == (1, 20, 8)
    value, _ = forget_accuracy(erased, 3, protocol=protocol, scorer=toy.scorer, num_images=20)
    assert value.value == 0


def test_records_are_written_whole_and_read_back(record, tmp_path):
    write_record(record, tmp_path / "results.json")
    assert read_record(tmp_path / "results.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(MissingError, match="not a result record"):
        read_record(tmp_path / "other.json")


def test_a_reference_keeps_the_features_of_what_was_taken_out():
    features, labels = torch.arange(12.0)[:, None].expand(12, 2), torch.arange(12) % 6
    seen = Observations(class_labels=labels, predicted=None, features=features, feature_space="toy", key="")
    reference = reference_from_observations(seen, forget_classes=(1, 4), description="toy")
    assert reference.removed_features[:, 0].tolist() == [1, 4, 7, 10]
    assert len(reference.features) == 8
