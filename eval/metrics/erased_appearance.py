"""What the erased label draws instead: the classes that the classifier sees, and how concentrated they are."""

import torch
from torch import Tensor

from eval.metric import Batch, Display, Metric
from eval.values import Value, share

NEAREST = 5


class ErasedAppearance(Metric):
    """Histogram of predicted classes for each forget label, its entropy, and its most frequent class."""

    shows = (
        Display(
            key="erased_top_share",
            title="Most frequent class under the erased label",
            better="neither",
            unit="share",
            meaning="Share of the class that the erased label draws most often now.",
        ),
        Display(
            key="erased_entropy",
            title="Variety under the erased label",
            better="neither",
            unit="bits",
            meaning="Entropy of the classes that the erased label draws: 0 bits is always the same class.",
        ),
    )

    def update(self, batch: Batch) -> None:
        """Add predicted classes (F, K + 1; the last column counts unreadable images) and probabilities (F, K)."""
        width = self.context.num_classes + 1
        counts = torch.zeros(len(self.context.forget_classes), width, dtype=torch.long)
        probabilities = torch.zeros(len(self.context.forget_classes), width - 1, dtype=torch.float64)
        for row, label in enumerate(self.context.forget_classes):
            chosen = batch.class_labels == label
            predicted = batch.predicted[chosen]
            counts[row] = torch.bincount(torch.where(predicted < 0, width - 1, predicted), minlength=width)
            probabilities[row] = batch.logits[chosen][predicted >= 0].double().softmax(1).sum(0)
        self.add("counts", counts)
        self.add("probabilities", probabilities)

    def compute(self) -> dict[str, Value]:
        """``erased_top_share`` with the histograms of all forget labels, ``erased_entropy`` as their mean."""
        if not self.sums.get("counts", torch.zeros(1)).sum():
            return {"erased_top_share": Value(value=None, n=0), "erased_entropy": Value(value=None, n=0)}
        labels, counts = self.context.forget_classes, self.sums["counts"]
        n = int(counts.sum())
        nearest = [self.nearest(row) for row in range(len(labels))]
        histograms = {
            str(label): {"counts": histogram(counts[row]), "entropy": entropy(counts[row]), "nearest": nearest[row]}
            for row, label in enumerate(labels)
        }
        tops = int(counts[:, :-1].max(1).values.sum())
        average = sum(entropy(row) for row in counts) / len(labels)
        return {
            "erased_top_share": share(tops, n, detail={"per_class": histograms}),
            "erased_entropy": Value(value=average, n=n),
        }

    def nearest(self, row: int) -> list[int]:
        """Retained classes that the classifier comes closest to seeing, best first."""
        removed = [*self.context.forget_classes, *self.context.earlier_classes]
        probabilities = self.sums["probabilities"][row].clone()
        probabilities[removed] = -1
        keep = min(NEAREST, len(probabilities) - len(removed))
        return probabilities.topk(keep).indices.tolist()


def histogram(counts: Tensor) -> dict[str, int]:
    """Non-zero counts by class, most frequent first; ``unreadable`` for images whose logits are not finite."""
    names = [*map(str, range(len(counts) - 1)), "unreadable"]
    pairs = [(name, count) for name, count in zip(names, counts.tolist(), strict=True) if count]
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def entropy(counts: Tensor) -> float:
    """Entropy in bits of a histogram (0 for an empty one)."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(-(torch.special.xlogy(shares, shares)).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64))) + 0.0
