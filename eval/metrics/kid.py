"""Kernel distance: unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al., arXiv 1801.01401).

Unbiased at every sample size, so it is the one to read below 10,000 images. All pairs are used instead of random
subsets; the interval is a delete-one-block jackknife, which is on the wide side where the distance is about 0.

The estimator takes images for independent draws. Balanced labels are more even than those, so that two sides of n and m
images of C classes give for equal distributions not 0 but -(1 - 1/C) (1/(n-1) + 1/(m-1)) times the difference of the
kernel's means within and between classes. It is left as it is, for the sake of comparison with KID elsewhere.
"""

import torch
from torch import Tensor

from eval.metric import Batch, Display, Metric
from eval.values import Value, Z
from pipelines.randomness import generator

BLOCKS = 10
LARGEST = 10_000  # images a side; a seeded subset beyond


class Kid(Metric):
    """One kernel distance over all retained classes."""

    shows = (
        Display(
            key="kid",
            title="Kernel distance ({space} features)",
            inception_title="KID",
            better="lower",
            unit="distance",
            meaning="As the Frechet distance, without its bias for few images; 0 or just below for a perfect model.",
        ),
    )
    needs = ("reference_features",)

    def update(self, batch: Batch) -> None:
        """Keep the features of the retained images."""
        self.keep("features", batch.retained_features)

    def compute(self) -> dict[str, Value]:
        """``kid``; without a value when a feature is not finite."""
        features = self.kept("features")
        n = len(features)
        unreadable = int((~features.isfinite().all(1)).sum())
        if unreadable or n < 2 * BLOCKS or len(self.context.reference.features) < 2 * BLOCKS:
            return {"kid": Value(value=None, n=n, detail={"unreadable": unreadable})}
        fake = shuffled(features, self.context.seed, "kid generated")
        real = shuffled(self.context.reference.features, self.context.seed, "kid reference")
        value, error = kernel_distance(fake, real, blocks=BLOCKS)
        detail = {"reference_n": len(real), "standard_error": error}
        return {"kid": Value(value=value, low=value - Z * error, high=value + Z * error, n=len(fake), detail=detail)}


def shuffled(features: Tensor, seed: int, stream: str) -> Tensor:
    """At most ``LARGEST`` rows in an order that the seed fixes."""
    order = torch.randperm(len(features), generator=generator(seed, stream))
    return features[order[:LARGEST]]


def kernel_distance(fake: Tensor, real: Tensor, *, blocks: int) -> tuple[float, float]:
    """Unbiased squared MMD of features (n, D) and (m, D), and its jackknife standard error."""
    fake_blocks, real_blocks = fake.tensor_split(blocks), real.tensor_split(blocks)
    within_fake, within_real = sums_within(fake_blocks), sums_within(real_blocks)
    across = torch.tensor([[kernel(a, b).sum() for b in real_blocks] for a in fake_blocks])
    n, m = (torch.tensor([len(block) for block in part]) for part in (fake_blocks, real_blocks))

    def estimate(kept: Tensor) -> float:
        """The estimate from some of the blocks (BLOCKS,) bool."""
        pairs = kept[:, None] & kept[None, :]
        num_fake, num_real = int(n[kept].sum()), int(m[kept].sum())
        same = within_fake[pairs].sum() / (num_fake * (num_fake - 1)) + within_real[pairs].sum() / (
            num_real * (num_real - 1)
        )
        return float(same - 2 * across[pairs].sum() / (num_fake * num_real))

    # Leave out one block of each side at a time: the sums over pairs of blocks are all that is needed.
    every = torch.ones(blocks, dtype=torch.bool)
    held_out = torch.tensor([estimate(every & (torch.arange(blocks) != left)) for left in range(blocks)]).double()
    variance = (blocks - 1) / blocks * (held_out - held_out.mean()).square().sum()
    return estimate(every), float(variance.sqrt())


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(x.y / D + 1)^3 of all pairs of rows, in float64."""
    return ((a @ b.T).double() / a.shape[1] + 1) ** 3


def sums_within(blocks: tuple[Tensor, ...]) -> Tensor:
    """Sum of the kernel over each pair of blocks (A, A), without the pairs of a row with itself."""
    sums = torch.zeros(len(blocks), len(blocks), dtype=torch.float64)
    for i, rows in enumerate(blocks):
        for j, columns in enumerate(blocks[: i + 1]):
            pairs = kernel(rows, columns)
            sums[i, j] = sums[j, i] = pairs.sum() - (pairs.diagonal().sum() if i == j else 0)
    return sums
