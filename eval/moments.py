"""Streaming float64 moments of feature vectors, and the Frechet distance between two Gaussians.

d^2 = ||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))   (Dowson and Landau 1982; FID, arXiv 1706.08500, eq. 6)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pipelines.errors import MissingError, UsageError
from pipelines.files import replace_file


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) in float64; ``n`` is 0 where a file does not record it."""

    mean: Tensor
    covariance: Tensor
    n: int


class Moments:
    """Number, sum and sum of outer products of vectors: additive, so shards merge and classes come out exactly."""

    def __init__(self, num_features: int) -> None:
        self.n = 0
        self.sum = torch.zeros(num_features, dtype=torch.float64)
        self.outer = torch.zeros(num_features, num_features, dtype=torch.float64)

    def update(self, features: Tensor) -> "Moments":
        """Add features (B, D) of any float type."""
        rows = features.detach().to("cpu", torch.float64)
        self.n += len(rows)
        self.sum += rows.sum(0)
        self.outer.addmm_(rows.T, rows)
        return self

    def merge(self, other: "Moments") -> "Moments":
        """Add the vectors of another shard."""
        self.n += other.n
        self.sum += other.sum
        self.outer += other.outer
        return self

    def remove(self, other: "Moments") -> "Moments":
        """Take out vectors that were added before, for instance those of an erased class."""
        if other.n > self.n:
            raise ValueError(f"cannot remove {other.n} vectors from {self.n}")
        self.n -= other.n
        self.sum -= other.sum
        self.outer -= other.outer
        return self

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance (``ValueError`` below two vectors)."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 vectors, not {self.n}")
        mean = self.sum / self.n
        covariance = (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)
        return Gaussian(mean=mean, covariance=(covariance + covariance.T) / 2, n=self.n)

    def save(self, path: Path, *, meta: Mapping[str, Any], rows: Mapping[str, np.ndarray] | None = None) -> None:
        """Write npz: ``mu`` and ``sigma`` as ADM and clean-fid read them, ``n``, JSON ``meta``; whole or not at all.

        ``rows`` are further arrays, such as the vectors themselves.
        """
        gaussian = self.gaussian()
        with replace_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                mu=gaussian.mean.numpy(),
                sigma=gaussian.covariance.numpy(),
                n=np.int64(self.n),
                meta=np.array(json.dumps(dict(meta))),
                **(rows or {}),
            )


def moments_of(gaussian: Gaussian) -> Moments:
    """The sums behind a Gaussian whose ``n`` is known (``ValueError`` otherwise)."""
    if gaussian.n < 2:
        raise ValueError("sums need the number of vectors, which this file does not record")
    moments = Moments(len(gaussian.mean))
    moments.n = gaussian.n
    moments.sum = gaussian.n * gaussian.mean
    moments.outer = (gaussian.n - 1) * gaussian.covariance + gaussian.n * torch.outer(gaussian.mean, gaussian.mean)
    return moments


def read_npz(path: Path, *names: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The named arrays of an npz as far as it holds them, and the names of all; pickles are not read.

    Raises ``MissingError`` for a file that is absent, damaged or another kind.
    """
    if not path.exists():
        raise MissingError(f"reference statistics {path} do not exist")
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = list(archive.files)
            return {name: archive[name] for name in names if name in held}, held
    except (ValueError, OSError, EOFError, AttributeError, BadZipFile) as error:
        raise MissingError(f"{path} is no whole npz of statistics: {error}") from error


def load_gaussian(path: Path) -> tuple[Gaussian, dict[str, Any]]:
    """Statistics and metadata of an npz of our own, of ADM or of clean-fid (``MissingError``, ``UsageError``)."""
    arrays, held = read_npz(path, "mu", "sigma", "n", "meta")
    if not {"mu", "sigma"} <= set(held):
        raise UsageError(f"{path} holds {', '.join(held)}; reference statistics hold mu and sigma")
    mean = torch.from_numpy(arrays["mu"].astype(np.float64))
    covariance = torch.from_numpy(arrays["sigma"].astype(np.float64))
    n = int(arrays["n"]) if "n" in arrays else 0
    meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UsageError(f"{path} holds mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)}, which do not fit")
    return Gaussian(mean=mean, covariance=covariance, n=n), meta


def load_moments(path: Path) -> tuple[Moments, dict[str, Any]]:
    """Additive moments and metadata of an npz that records ``n``."""
    gaussian, meta = load_gaussian(path)
    if gaussian.n < 2:
        raise UsageError(f"{path} does not record the number of images, so no class can be removed from it")
    return moments_of(gaussian), meta


def square_root_factor(covariance: Tensor) -> Tensor:
    """Some R (D, D) with R R^T = covariance: Cholesky, or eigenvectors where it is only positive semi-definite."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance between two Gaussians, with tr (S_a S_b)^(1/2) from the eigenvalues of R^T S_b R."""
    factor = square_root_factor(a.covariance)
    eigenvalues = torch.linalg.eigvalsh(factor.T @ b.covariance @ factor)
    return _assemble(a.mean, torch.trace(a.covariance), b, eigenvalues.clamp(min=0).sqrt().sum())


def frechet_from_features(features: Tensor, b: Gaussian) -> float:
    """The same distance for fewer vectors (n, D) than dimensions: the eigenvalues of an n x n Gram matrix."""
    rows = features.to(torch.float64)
    if len(rows) < 2:
        raise ValueError(f"a covariance needs at least 2 vectors, not {len(rows)}")
    mean = rows.mean(0)
    centred = (rows - mean) / (len(rows) - 1) ** 0.5
    # Centred rows have rank n - 1: the smallest eigenvalue is rounding, and its square root would not be small.
    eigenvalues = torch.linalg.eigvalsh(centred @ b.covariance @ centred.T)[1:]
    return _assemble(mean, centred.square().sum(), b, eigenvalues.clamp(min=0).sqrt().sum())


def _assemble(mean: Tensor, trace: Tensor, b: Gaussian, cross: Tensor) -> float:
    """Mean term plus traces minus twice the cross term, never below zero."""
    distance = (mean - b.mean).square().sum() + trace + torch.trace(b.covariance) - 2 * cross
    return max(0.0, float(distance))
