"""Classifiers: preprocessing in closed form, an exact round trip, names that timm does not know."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from pipelines.classifier import Classifier, build_classifier, load_classifier, save_classifier
from pipelines.errors import MissingError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """A small timm network with random weights and statistics of its own. Not to be changed."""
    classifier = build_classifier("test_resnet", num_classes=7, input_size=32, mean=MEAN, std=STD)
    draws = torch.Generator().manual_seed(0)
    for tensor in classifier.network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=draws) * 0.4 + (0.1 if tensor.ndim == 1 else -0.2))
    return classifier


@pytest.fixture
def images() -> torch.Tensor:
    """Nine random pictures of the classifier's own size."""
    return torch.randint(0, 256, (9, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_preprocessing_of_the_right_size_is_the_formula(classifier: Classifier, images: torch.Tensor) -> None:
    expected = torch.empty(9, 3, 32, 32, dtype=torch.float64)
    for channel in range(3):
        expected[:, channel] = (images[:, channel].double() / 255 - MEAN[channel]) / STD[channel]
    found = classifier.preprocess(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_preprocessing_averages_when_it_shrinks(classifier: Classifier) -> None:
    """Antialiased: a checkerboard of single pixels becomes grey away from the border; without, it would alias."""
    board = ((torch.arange(96)[:, None] + torch.arange(96)) % 2 * 255).to(torch.uint8).expand(1, 3, 96, 96)
    found = classifier.preprocess(board)[0, :, 2:-2, 2:-2]
    expected = torch.tensor([(0.5 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])[:, None, None]
    assert (found - expected).abs().max() < 0.2
    plain = interpolate(board.float() / 255, size=(32, 32), mode="bilinear")
    assert (plain - 0.5).abs().max() > 0.4


def test_preprocessing_keeps_a_constant(classifier: Classifier) -> None:
    """Any size, without a crop, also when height and width differ."""
    for height, width in ((16, 16), (100, 60), (32, 64)):
        found = classifier.preprocess(torch.full((2, 3, height, width), 51, dtype=torch.uint8))
        expected = torch.tensor([(0.2 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])
        assert found.shape == (2, 3, 32, 32)
        torch.testing.assert_close(found, expected[None, :, None, None].expand_as(found), rtol=1e-4, atol=1e-5)


def test_no_part_of_a_picture_is_cropped(classifier: Classifier) -> None:
    """A bright outermost ring still shows at every side of the resized picture."""
    picture = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    picture[..., :2, :] = picture[..., -2:, :] = picture[..., :2] = picture[..., -2:] = 255
    found = classifier.preprocess(picture)[0, 0] - classifier.preprocess(torch.zeros_like(picture))[0, 0]
    for side in (found[0], found[-1], found[:, 0], found[:, -1]):
        assert side.min() > 0.5


def test_logits_and_features_are_the_networks_own(classifier: Classifier, images: torch.Tensor) -> None:
    """Whatever the batch; the head applied to the features gives the logits."""
    logits, features = classifier.logits_and_features(images, batch_size=4)
    with torch.no_grad():
        expected = classifier.network(classifier.preprocess(images))
        head = classifier.network.get_classifier()(features)
    assert logits.shape == (9, 7) and features.shape == (9, classifier.num_features)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head, expected, rtol=1e-4, atol=1e-4)
    assert logits.std(0).max() > 1e-3 and not logits.requires_grad
    assert torch.equal(classifier.predict(images), logits.argmax(1))


def test_round_trip(classifier: Classifier, images: torch.Tensor, tmp_path: Path) -> None:
    """Weights, running statistics and preprocessing; in eval mode."""
    save_classifier(classifier, tmp_path / "classifier")
    loaded = load_classifier(tmp_path / "classifier")
    assert (loaded.name, loaded.num_classes, loaded.input_size) == ("test_resnet", 7, 32)
    assert (loaded.mean, loaded.std) == (MEAN, STD) and not loaded.network.training
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    assert torch.equal(loaded.logits_and_features(images)[0], classifier.logits_and_features(images)[0])


def test_half_precision_storage(classifier: Classifier, tmp_path: Path) -> None:
    """Stored values are rounded, loaded ones are float32; counters stay integers."""
    save_classifier(classifier, tmp_path / "classifier", dtype=torch.float16)
    loaded = load_classifier(tmp_path / "classifier").network.state_dict()
    for name, tensor in classifier.network.state_dict().items():
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], expected)


def test_unknown_names_offer_similar_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match=r"--classifier resnet3 is neither.*resnet3"):
        load_classifier("resnet3")
    with pytest.raises(MissingError, match=r"--classifier qqq is neither a folder nor a timm model.*none similar"):
        load_classifier("qqq")


def test_damaged_folders(classifier: Classifier, tmp_path: Path) -> None:
    """No configuration, no weights, truncated weights: each a sentence that names the file."""
    with pytest.raises(MissingError, match=r"config\.json does not exist"):
        load_classifier(tmp_path)
    save_classifier(classifier, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(MissingError, match=r"model\.safetensors is not a complete safetensors file"):
        load_classifier(tmp_path)
    weights.unlink()
    with pytest.raises(MissingError, match=r"model\.safetensors"):
        load_classifier(tmp_path)


def test_configuration_is_plain_json(classifier: Classifier, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "test_resnet" and config["mean"] == list(MEAN)
