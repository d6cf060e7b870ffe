"""Improved precision and recall with k = 3 (Kynkaanniemi et al., arXiv 1904.06991): quality and variety apart."""

import torch
from torch import Tensor

from eval.metric import Batch, Display, Metric
from eval.metrics.kid import shuffled
from eval.values import Value, share

NEIGHBOURS = 3
CHUNK = 1_000


class PrecisionRecall(Metric):
    """Share of generated images inside the real manifold, and of real images inside the generated one."""

    shows = (
        Display(
            key="precision",
            title="Precision ({space} features)",
            inception_title="Precision",
            better="higher",
            unit="share",
            meaning="Share of the images of the other classes that look like real ones.",
        ),
        Display(
            key="recall",
            title="Recall ({space} features)",
            inception_title="Recall",
            better="higher",
            unit="share",
            meaning="Share of the real images whose like the model still draws: it falls when variety is lost.",
        ),
    )
    needs = ("reference_features",)

    def update(self, batch: Batch) -> None:
        """Keep the features of the retained images."""
        self.keep("features", batch.retained_features)

    def compute(self) -> dict[str, Value]:
        """``precision`` and ``recall``; images with non-finite features lie in no manifold."""
        fake = self.kept("features")
        fake = shuffled(fake, self.context.seed, "precision generated")
        real = shuffled(self.context.reference.features, self.context.seed, "precision reference")
        finite = fake[fake.isfinite().all(1)]
        if min(len(finite), len(real)) <= NEIGHBOURS:
            return {show.key: Value(value=None, n=0) for show in self.shows}
        precision = share(int(inside(finite, real).sum()), len(fake), detail={"reference_n": len(real)})
        return {"precision": precision, "recall": share(int(inside(real, finite).sum()), len(real))}


def radii(features: Tensor, k: int) -> Tensor:
    """Distance (N,) of each row to its k-th nearest other row."""
    return torch.cat([torch.cdist(chunk, features).kthvalue(k + 1).values for chunk in features.split(CHUNK)])


def inside(queries: Tensor, manifold: Tensor, *, k: int = NEIGHBOURS) -> Tensor:
    """(Q,) bool: a query lies in the k-th nearest-neighbour ball of some row of the manifold (equation 1)."""
    reach = radii(manifold, k)
    return torch.cat([(torch.cdist(chunk, manifold) <= reach).any(1) for chunk in queries.split(CHUNK)])
