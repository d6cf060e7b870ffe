"""Inception score of the retained classes' images (arXiv 1606.03498): exp of the mean KL of p(y | x) from p(y).

From the TensorFlow network's logits without their bias, as the published values are, over all images in one split.
"""

import torch
from torch import Tensor

from eval.metric import Batch, Display, Metric
from eval.values import Value


class InceptionScore(Metric):
    """One score over all retained classes; its state is three sums."""

    needs = ("inception_head",)
    shows = (
        Display(
            key="inception_score",
            title="Inception score",
            better="higher",
            unit="distance",
            meaning="How clear and how varied the images of the other classes look to the Inception network, from 1.",
        ),
    )

    def update(self, batch: Batch) -> None:
        """Add up p(y | x) and its negative entropy over the retained images."""
        shares = self.shares(batch.retained_features)
        self.add("shares", shares.sum(0))
        self.add("information", torch.special.xlogy(shares, shares).sum())
        self.add("images", torch.tensor(len(shares)))

    def shares(self, features: Tensor) -> Tensor:
        """p(y | x) (B, 1008) in float64."""
        head = self.context.inception_head.double()
        return (features.double() @ head.T).softmax(1)

    def compute(self) -> dict[str, Value]:
        """``inception_score``; without a value when a feature is not finite or no image was drawn."""
        n = int(self.sums.get("images", 0))
        if n == 0 or not self.sums["information"].isfinite():
            return {"inception_score": Value(value=None, n=n)}
        marginal = self.sums["shares"] / n
        divergence = self.sums["information"] / n - torch.special.xlogy(marginal, marginal).sum()
        return {"inception_score": Value(value=divergence.exp().item(), n=n)}
