"""Scorers, the identity of the Inception file, and references made from real images or from files."""

import hashlib

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import NoTrainInceptionV3

from eval.features import InceptionScorer, fingerprinted_name, load_inception
from eval.moments import Moments
from eval.reference import reference_from_file, reference_from_observations
from pipelines.errors import MissingError, UsageError


def test_a_fingerprint_follows_the_weights(toy):
    classifier = toy.scorer.classifier
    name = fingerprinted_name(classifier)
    assert name.startswith("toy (") and name == toy.scorer.name
    with torch.no_grad():
        classifier.network.means[0, 0] += 1
        changed = fingerprinted_name(classifier)
        classifier.network.means[0, 0] -= 1
    assert changed != name


def test_the_classifiers_own_scorer_gives_both_from_one_pass(toy):
    images = torch.randint(0, 256, (7, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits, features = toy.scorer.logits_and_features(images)
    assert (logits.shape, features.shape) == ((7, toy.scorer.num_classes), (7, toy.scorer.num_features))
    torch.testing.assert_close(features, (images.flatten(1).float() - 128) / 40, atol=1e-4, rtol=0)


def test_inception_gets_the_images_as_uint8(toy):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            assert images.dtype == torch.uint8
            return images.flatten(1)[:, :2].double()

    scorer = InceptionScorer(toy.scorer.classifier, Network(), num_features=2)
    logits, features = scorer.logits_and_features(torch.full((3, 3, 4, 4), 9, dtype=torch.uint8))
    assert scorer.feature_space == "inception"
    assert (logits.shape, features.tolist()) == ((3, 5), [[9.0, 9.0]] * 3)


def test_other_inception_weights_are_refused_before_they_are_read(tmp_path):
    with pytest.raises(MissingError, match="do not exist"):
        load_inception(tmp_path / "absent.pth")
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not even a pickle")
    with pytest.raises(UsageError, match="other weights"):
        load_inception(path)


@pytest.mark.slow
def test_the_real_inception_architecture_loads_from_a_local_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **options: {})
        patch.setattr(nn.Module, "load_state_dict", lambda self, state: None)
        blank = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    torch.save(blank.state_dict(), path)
    network = load_inception(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    features = network(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert features.shape == (2, 2048)
    assert not network.use_antialias


def test_observations_leave_out_the_forget_classes(toy):
    rest = toy.observations.without((3, 4))
    assert sorted(set(rest.class_labels.tolist())) == [0, 1, 2]
    assert len(rest.features) == len(rest.predicted) == 180
    assert toy.reference.gaussian.n == 240
    assert toy.reference.accuracy.value == 1
    with pytest.raises(UsageError, match="at least 2"):
        reference_from_observations(toy.observations, forget_classes=(0, 1, 2, 3, 4), description="none")


def test_a_reference_file_of_another_feature_space_is_refused(toy, tmp_path):
    moments = Moments(toy.scorer.num_features).update(toy.observations.features)
    moments.save(tmp_path / "a.npz", meta={"feature_space": "toy", "description": "all toy images"})
    reference = reference_from_file(tmp_path / "a.npz", feature_space="toy")
    assert (reference.description, len(reference.features), reference.gaussian.n) == ("all toy images", 0, 300)
    with pytest.raises(UsageError, match="statistics of toy features"):
        reference_from_file(tmp_path / "a.npz", feature_space="inception")
