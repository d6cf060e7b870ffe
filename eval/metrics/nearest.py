"""Copying of training images: whether generated images lie nearer to training than to held-out real images.

The comparison of Meehan et al. (arXiv 2004.05675) with one cell: a model that draws too little variety lies near to
both sets alike, so unlike a bare distance the share does not take it for a copier. The interval is over generated
images; with few real images the share itself strays further from 50 %.
"""

import torch
from torch import Tensor

from eval.metric import Batch, Display, Metric
from eval.metrics.kid import shuffled
from eval.metrics.precision_recall import CHUNK
from eval.values import Value, share


class Nearest(Metric):
    """Share of retained images whose nearest real image is a training image, both sets cut to equal size."""

    shows = (
        Display(
            key="copying",
            title="Nearer to training than to held-out images ({space} features)",
            inception_title="Nearer to training than to held-out images",
            better="lower",
            unit="share",
            meaning="Share of images of the other classes that lie nearer to a training image: 50 % is no copying.",
        ),
    )
    needs = ("reference_features", "training_features")

    def update(self, batch: Batch) -> None:
        """Keep the features of the retained images."""
        self.keep("features", batch.retained_features)

    def compute(self) -> dict[str, Value]:
        """``copying``; unreadable images are nearer to nothing."""
        features = self.kept("features")
        held_out = shuffled(self.context.reference.features, self.context.seed, "nearest held-out")
        training = shuffled(self.context.training_features, self.context.seed, "nearest training")
        size = min(len(held_out), len(training))
        nearer = nearest_distance(features, training[:size]) < nearest_distance(features, held_out[:size])
        return {"copying": share(int(nearer.sum()), len(features), detail={"reference_n": size})}


def nearest_distance(features: Tensor, real: Tensor) -> Tensor:
    """Distance (N,) of each row to the nearest real row."""
    return torch.cat([torch.cdist(chunk, real).amin(1) for chunk in features.split(CHUNK)])
