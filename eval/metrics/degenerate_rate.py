"""Share of images that are no pictures: constant, nearly constant, or unreadable to the classifier.

A non-finite image is decoded to black and so counts as constant. None is ever dropped.
"""

import torch
from torch import Tensor

from eval.metric import Batch, Display, Metric
from eval.values import Value, share

NEARLY_CONSTANT = 4.0  # grey levels of 255: largest standard deviation over the pixels of a colour channel
KINDS = ("constant", "nearly_constant", "unreadable")


class DegenerateRate(Metric):
    """Degenerate images among the forget classes and among the retained classes."""

    shows = (
        Display(
            key="forget_degenerate_rate",
            title="Degenerate images, erased label",
            better="lower",
            unit="share",
            meaning="Share of images under the erased label that are blank or nearly so: a sign of collapse.",
        ),
        Display(
            key="retain_degenerate_rate",
            title="Degenerate images, other labels",
            better="lower",
            unit="share",
            meaning="Share of images under the other labels that are blank or nearly so.",
        ),
    )

    def update(self, batch: Batch) -> None:
        """Count images by kind on both sides."""
        kinds = kind_of(batch)
        for side, chosen in (("forget", batch.is_forget), ("retain", ~batch.is_forget)):
            counts = torch.bincount(kinds[chosen], minlength=len(KINDS) + 1)
            self.add(side, counts)

    def compute(self) -> dict[str, Value]:
        """Both rates, each with its counts by kind."""
        values = {}
        for side in ("forget", "retain"):
            _, *degenerate = counts = self.sums.get(side, torch.zeros(len(KINDS) + 1)).int().tolist()
            detail = dict(zip(KINDS, degenerate, strict=True))
            values[f"{side}_degenerate_rate"] = share(sum(degenerate), sum(counts), detail=detail)
        return values


def kind_of(batch: Batch) -> Tensor:
    """(B,) 0 for a picture, otherwise 1 + index into ``KINDS``."""
    spread = batch.images.float().flatten(2).std(2).amax(1)
    unreadable = ~(batch.logits.isfinite().all(1) & batch.features.isfinite().all(1))
    kinds = torch.where(spread < NEARLY_CONSTANT, 2, 0)
    kinds = torch.where(spread == 0, 1, kinds)
    return torch.where((kinds == 0) & unreadable, 3, kinds)
