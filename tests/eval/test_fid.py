"""FID as torch-fidelity computes it: the same statistics, and the same images through the same extractor."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import NoTrainInceptionV3

from eval.features import load_inception
from eval.moments import Moments, frechet_distance, frechet_from_features


def two_clouds(count, dimensions, seed=0):
    """Correlated features of two populations, (count, dimensions) each."""
    draws = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=draws) / dimensions**0.5
    first = torch.randn(count, dimensions, generator=draws) @ mixing
    return first, 1.1 * torch.randn(count, dimensions, generator=draws) @ mixing + 0.05


def theirs(first, second):
    """torch-fidelity's distance of two feature sets."""
    statistics = [fid_features_to_statistics(each) for each in (first, second)]
    return fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]


def textbook(first, second):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) in float64, the root from scipy: neither our code nor theirs."""
    first, second = (each.double().numpy() for each in (first, second))
    means = np.square(first.mean(0) - second.mean(0)).sum()
    one, two = (np.cov(each, rowvar=False) for each in (first, second))
    return float(means + np.trace(one) + np.trace(two) - 2 * np.trace(sqrtm(one @ two)).real)


@pytest.mark.parametrize(("count", "dimensions"), [(3000, 128), (2500, 256)])
def test_the_distance_is_torch_fidelitys(count, dimensions):
    first, second = two_clouds(count, dimensions)
    a, b = (Moments(dimensions).update(each).gaussian() for each in (first, second))
    assert frechet_distance(a, b) == pytest.approx(theirs(first, second), rel=1e-5)

    assert frechet_distance(a, b) == pytest.approx(textbook(first, second), rel=1e-7)


def test_fewer_images_than_dimensions_give_torch_fidelitys_distance_too():
    first, second = two_clouds(300, 400)
    b = Moments(400).update(second).gaussian()
    assert frechet_from_features(first, b) == pytest.approx(theirs(first, second), rel=1e-4)


@pytest.fixture
def extractors(tmp_path, monkeypatch):
    """Our extractor and torch-fidelity's from one file of random weights that keep the activations at their size."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_: None)
        blank = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in blank.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = tmp_path / "inception.pth"
    torch.save(blank.state_dict(), path)
    ours = load_inception(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return ours, FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)).eval()


def pictures(count, brightness, seed):
    """Blurred colours under fine grain, uint8 (count, 3, 32, 32): their features span every dimension."""
    draws = torch.Generator().manual_seed(seed)
    coarse = nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=draws), size=32, mode="bilinear")
    grain = torch.rand(count, 3, 32, 32, generator=draws)
    return (brightness * (coarse + grain)).clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def test_the_extractor_is_torch_fidelitys(extractors):
    ours, published = extractors
    images = pictures(3, 120, 0)
    features = ours(images)
    assert features.std() > 0.01  # no comparison of zeros
    torch.testing.assert_close(features, published(images)[0])


@pytest.mark.slow
@torch.no_grad()
def test_the_same_images_through_the_same_extractor(extractors, record_property):
    """Random weights, 2,100 images on each side, 2,048 dimensions: a relative difference under 1e-5.

    ``--junitxml FILE`` shows the figures.
    """
    ours, published = extractors
    sides = [pictures(2100, brightness, brightness) for brightness in (110, 130)]
    mine = [torch.cat([ours(chunk) for chunk in side.split(50)]) for side in sides]
    fidelity = [torch.cat([published(chunk)[0] for chunk in side.split(50)]) for side in sides]
    a, b = (Moments(2048).update(each).gaussian() for each in mine)
    found, others = frechet_distance(a, b), {"torch-fidelity": theirs(*fidelity), "scipy": textbook(*mine)}
    record_property("distance", found)
    for name, other in others.items():
        record_property(f"relative difference to {name}", abs(found - other) / other)
        assert found == pytest.approx(other, rel=1e-5, abs=0)
