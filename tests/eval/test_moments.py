"""Moments and the Frechet distance against numpy, closed forms, scipy's sqrtm, torchmetrics and simulation."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from eval.moments import (
    Gaussian,
    Moments,
    frechet_distance,
    frechet_from_features,
    load_gaussian,
    load_moments,
    square_root_factor,
)
from pipelines.errors import MissingError, UsageError


def sample(n, d, seed, *, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + shift


class Pixels(torch.nn.Flatten):
    """Features of an image are its pixels."""

    num_features = 10

    def forward(self, images):
        return super().forward(images.double())


def gaussian_of(features):
    return Moments(features.shape[1]).update(features).gaussian()


def test_one_pass_agrees_with_numpy():
    features = sample(300, 12, 0, shift=0.4)
    found = gaussian_of(features)
    np.testing.assert_allclose(found.mean, features.numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.numpy(), rowvar=False), atol=1e-12)


@pytest.mark.parametrize("shards", [1, 2, 5, 17])
def test_merged_shards_are_one_pass(shards):
    features = sample(200, 16, 1, shift=2.0)
    merged = Moments(16)
    for part in features.tensor_split(shards):
        merged.merge(Moments(16).update(part))
    one, whole = merged.gaussian(), gaussian_of(features)
    assert one.n == whole.n == 200
    torch.testing.assert_close(one.mean, whole.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.covariance, whole.covariance, rtol=1e-10, atol=1e-10)


def test_a_removed_class_leaves_exactly_the_others():
    kept, gone = sample(150, 8, 2), sample(60, 8, 3, shift=5.0)
    moments = Moments(8).update(torch.cat([kept, gone])).remove(Moments(8).update(gone))
    assert moments.n == 150
    torch.testing.assert_close(moments.gaussian().covariance, gaussian_of(kept).covariance, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="cannot remove"):
        moments.remove(Moments(8).update(sample(151, 8, 0)))


def test_a_covariance_needs_two_vectors():
    with pytest.raises(ValueError, match="at least 2"):
        Moments(3).update(torch.zeros(1, 3)).gaussian()


def test_saved_moments_come_back_additive(tmp_path):
    first, second = sample(100, 6, 4), sample(70, 6, 5)
    Moments(6).update(first).save(tmp_path / "a.npz", meta={"feature_space": "toy"})
    loaded, meta = load_moments(tmp_path / "a.npz")
    assert meta == {"feature_space": "toy"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    both = loaded.update(second).gaussian()
    torch.testing.assert_close(both.covariance, gaussian_of(torch.cat([first, second])).covariance, atol=1e-10, rtol=0)


def test_adm_and_clean_fid_files_are_read(tmp_path):
    found = gaussian_of(sample(100, 6, 6))
    extra = {"mu_s": np.zeros(3), "sigma_s": np.eye(3), "arr_0": np.zeros((2, 4, 4, 3), np.uint8)}
    np.savez(tmp_path / "adm.npz", mu=found.mean, sigma=found.covariance, **extra)
    np.savez(tmp_path / "clean.npz", mu=found.mean.float(), sigma=found.covariance.float())
    for name, tolerance in (("adm.npz", 0), ("clean.npz", 1e-6)):
        loaded, meta = load_gaussian(tmp_path / name)
        assert (loaded.n, meta) == (0, {})
        assert loaded.covariance.dtype == torch.float64
        torch.testing.assert_close(loaded.covariance, found.covariance, rtol=0, atol=tolerance)
    with pytest.raises(UsageError, match="number of images"):
        load_moments(tmp_path / "adm.npz")


def test_files_that_are_no_statistics_are_refused(tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=np.zeros(3))
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(UsageError, match="mu and sigma"):
        load_gaussian(tmp_path / "images.npz")
    with pytest.raises(UsageError, match="do not fit"):
        load_gaussian(tmp_path / "odd.npz")
    with pytest.raises(MissingError):
        load_gaussian(tmp_path / "absent.npz")


def test_the_distance_of_commuting_gaussians_has_a_closed_form():
    a = Gaussian(mean=torch.tensor([1.0, 2.0]).double(), covariance=torch.diag(torch.tensor([4.0, 9.0])).double(), n=0)
    b = Gaussian(mean=torch.tensor([0.0, 0.0]).double(), covariance=torch.diag(torch.tensor([1.0, 1.0])).double(), n=0)
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 1) ** 2, abs=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("d", [1, 5, 40])
def test_the_distance_agrees_with_scipy_and_torchmetrics_and_is_symmetric(d):
    a, b = gaussian_of(sample(200, d, 7)), gaussian_of(sample(150, d, 8, scale=1.7, shift=0.3))
    cross = np.trace(sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real)
    expected = float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance)) == pytest.approx(expected, rel=1e-9)


def test_torchmetrics_computes_the_same_from_the_same_images():
    real, fake = ((sample(90, 10, seed, scale=40) + 128).round().clamp(0, 255).byte() for seed in (9, 10))
    fid = FrechetInceptionDistance(feature=Pixels()).set_dtype(torch.float64)
    fid.update(real[:, :, None, None], real=True)
    fid.update(fake[:, :, None, None], real=False)
    assert float(fid.compute()) == pytest.approx(frechet_distance(gaussian_of(fake), gaussian_of(real)), rel=1e-9)


def test_a_singular_covariance_takes_the_eigenvector_factor():
    low_rank = sample(200, 3, 11) @ sample(3, 10, 12)
    a, b = gaussian_of(low_rank), gaussian_of(sample(100, 10, 13))
    factor = square_root_factor(a.covariance)
    torch.testing.assert_close(factor @ factor.T, a.covariance, atol=1e-10, rtol=0)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-6)
    zero = Gaussian(mean=a.mean, covariance=torch.zeros_like(a.covariance), n=0)
    assert frechet_distance(zero, zero) == 0
    assert frechet_distance(a, zero) == pytest.approx(float(a.covariance.trace()), rel=1e-12)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_the_gram_form_is_the_same_distance(n):
    features, b = sample(n, 40, 14, shift=0.2), gaussian_of(sample(300, 40, 15))
    assert frechet_from_features(features, b) == pytest.approx(frechet_distance(gaussian_of(features), b), rel=1e-6)
    a = gaussian_of(features)
    expected = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert frechet_from_features(features, b) == pytest.approx(expected, rel=1e-4)
