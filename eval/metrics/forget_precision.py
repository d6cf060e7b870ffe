"""Whether the erased label still draws images like real ones, of whatever class.

Precision as in ``precision_recall``, with the manifold of all classes, the erased ones among them. A label that draws a
texture which the classifier happens to call the class lies outside; so does one that draws noise, which is no blank
image either. Beside forget accuracy it tells a class that is left from a label that has collapsed.
"""

import torch

from eval.metric import Batch, Display, Metric
from eval.metrics.kid import shuffled
from eval.metrics.precision_recall import NEIGHBOURS, inside
from eval.values import Value, share


class ForgetPrecision(Metric):
    """Share of the images of the forget classes inside the manifold of real images of all classes."""

    shows = (
        Display(
            key="forget_precision",
            title="Precision, erased label ({space} features)",
            inception_title="Precision, erased label",
            better="neither",
            unit="share",
            meaning="Share of images under the erased label that look like a real image of any class: 0 % is collapse.",
        ),
    )
    needs = ("reference_features",)

    def update(self, batch: Batch) -> None:
        """Keep the features of the forget images, each class for itself."""
        for label in self.context.forget_classes:
            self.keep(f"features {label}", batch.features[batch.class_labels == label])

    def compute(self) -> dict[str, Value]:
        """``forget_precision`` with one entry per class; images with non-finite features lie in no manifold."""
        reference = self.context.reference
        real = torch.cat([reference.features, reference.removed_features])
        real = shuffled(real, self.context.seed, "forget precision reference")
        if len(real) <= NEIGHBOURS:
            return {"forget_precision": Value(value=None, n=0)}
        drawn = [self.kept(f"features {label}") for label in self.context.forget_classes]
        looks_real = inside(torch.cat(drawn), real)  # at once: the manifold is measured in every call
        of_class = zip(self.context.forget_classes, looks_real.split([len(rows) for rows in drawn]), strict=True)
        per_class = {str(label): share(int(each.sum()), len(each)).to_dict() for label, each in of_class}
        detail = {"per_class": per_class, "reference_n": len(real)}
        return {"forget_precision": share(int(looks_real.sum()), len(looks_real), detail=detail)}
