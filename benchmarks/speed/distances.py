"""Frechet distances of 2,048-dimensional features against torchmetrics, with many images and with few."""

import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from eval.moments import Gaussian, Moments, frechet_distance, frechet_from_features

from .pairs import SAME, Row, compared, held, in_turns

NUM_FEATURES = 2048
CASES = {5000: 2.2, 500: 15.0}  # images, and what is asked for


def measure(device: torch.device) -> list[Row]:
    """One row for each number of images; always on the CPU, where torchmetrics and the product do this in float64."""
    return [measure_case(num_images, at_least) for num_images, at_least in CASES.items()]


def measure_case(num_images: int, at_least: float) -> Row:
    """Features against those of a reference of 5,000 images."""
    draws = torch.Generator().manual_seed(0)
    mixing = torch.randn(NUM_FEATURES, NUM_FEATURES, generator=draws, dtype=torch.float64) / NUM_FEATURES**0.5
    features = torch.randn(num_images, NUM_FEATURES, generator=draws, dtype=torch.float64) @ mixing + 0.1
    reference = gaussian_of(torch.randn(5000, NUM_FEATURES, generator=draws, dtype=torch.float64) @ mixing)
    found = gaussian_of(features)

    def plain() -> float:
        return float(_compute_fid(found.mean, found.covariance, reference.mean, reference.covariance))

    def ours() -> float:
        if num_images > NUM_FEATURES:
            return frechet_distance(found, reference)
        return frechet_from_features(features, reference)

    gate = held("distance", abs(ours() / plain() - 1), 1e-5)
    seconds = in_turns({"baseline": plain, "ours": ours}, torch.device("cpu"), num_warm=0)
    case = f"{num_images:,} images"
    return compared(seconds, "ours", benchmark="Frechet", case=case, lane=SAME, at_least=at_least, gate=gate)


def gaussian_of(features: Tensor) -> Gaussian:
    """Mean and covariance of features (N, D)."""
    return Moments(features.shape[1]).update(features).gaussian()
