"""Frechet distance between the generated and the real images of the retained classes (FID on Inception features).

The distance of a sample of n images is biased upwards as 1/n: compare at equal n only.
"""

from eval.metric import Batch, Display, Metric
from eval.moments import Moments, frechet_distance, frechet_from_features
from eval.values import Value


class Frechet(Metric):
    """One distance over all retained classes."""

    shows = (
        Display(
            key="frechet",
            title="Frechet distance ({space} features)",
            inception_title="FID",
            better="lower",
            unit="distance",
            meaning="How far the images of the other classes are from real ones, in quality and variety together.",
        ),
    )

    def update(self, batch: Batch) -> None:
        """Keep the features of the retained images."""
        self.keep("features", batch.retained_features)

    def compute(self) -> dict[str, Value]:
        """``frechet``; without a value when a feature is not finite."""
        features, reference = self.kept("features"), self.context.reference.gaussian
        n, dimensions = len(features), self.context.reference.num_features
        unreadable = int((~features.isfinite().all(1)).sum())
        if unreadable or n < 2:
            return {"frechet": Value(value=None, n=n, detail={"unreadable": unreadable})}

        # The Gram form is faster and more exact below full rank.
        detail = {"reference_n": reference.n}
        if n <= dimensions:
            return {"frechet": Value(value=frechet_from_features(features, reference), n=n, detail=detail)}
        moments = Moments(dimensions).update(features)
        return {"frechet": Value(value=frechet_distance(moments.gaussian(), reference), n=n, detail=detail)}
