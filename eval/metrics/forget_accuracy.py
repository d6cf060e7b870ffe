"""Share of the images generated under a forget class's label that the classifier calls that class.

An accuracy of 0 can come from a collapsed model: read it beside retain accuracy and the degenerate rate.
"""

import torch

from eval.metric import Batch, Display, Metric
from eval.values import Value, mean, share

TOP = 5


class ForgetAccuracy(Metric):
    """Top-1 over all forget classes and for each, any forget class, top-5, and the mean probability of the class."""

    shows = (
        Display(
            key="forget_accuracy",
            title="Forget accuracy",
            better="lower",
            unit="share",
            meaning="How often the classifier still recognises the erased class in images asked for under its label.",
        ),
        Display(
            key="forget_accuracy_any",
            title="Any erased class",
            better="lower",
            unit="share",
            meaning="How often the classifier recognises any erased class in images asked for under an erased label.",
        ),
        Display(
            key="forget_accuracy_top5",
            title="Forget accuracy, top 5",
            better="lower",
            unit="share",
            meaning="How often the erased class is among the classifier's five best guesses.",
        ),
        Display(
            key="forget_probability",
            title="Forget probability",
            better="lower",
            unit="share",
            meaning="Mean probability that the classifier gives the erased class in those images.",
        ),
    )

    def update(self, batch: Batch) -> None:
        """Count hits among the images of the forget classes."""
        labels, logits = batch.class_labels[batch.is_forget], batch.logits[batch.is_forget]
        predicted = batch.predicted[batch.is_forget]
        self.count("images", labels)
        self.count("hits", labels[predicted == labels])
        self.count("any hits", labels[torch.isin(predicted, torch.tensor(self.context.forget_classes))])

        # Rows with non-finite logits recognise nothing.
        finite = logits.isfinite().all(1)
        labels, logits = labels[finite], logits[finite]
        best = logits.topk(min(TOP, logits.shape[1])).indices
        self.count("top hits", labels[(best == labels[:, None]).any(1)])
        probability = logits.double().softmax(1).gather(1, labels[:, None])
        self.add("probability", torch.stack([probability.sum(), probability.square().sum()]))

    def compute(self) -> dict[str, Value]:
        """Top-1 with one entry per class, and the mean probability.

        Also any forget class where there are several, and top-5 where the model has more than five classes.
        """
        images, hits = self.total("images"), self.total("hits")
        n = int(images.sum())
        per_class = {
            str(label): share(int(hits[label]), int(images[label])).to_dict() for label in self.context.forget_classes
        }
        values = {"forget_accuracy": share(int(hits.sum()), n, detail={"per_class": per_class})}
        if len(self.context.forget_classes) > 1:
            values["forget_accuracy_any"] = share(int(self.total("any hits").sum()), n)
        if self.context.num_classes > TOP:
            values["forget_accuracy_top5"] = share(int(self.total("top hits").sum()), n)
        total, squares = self.sums.get("probability", torch.zeros(2)).tolist()
        return {**values, "forget_probability": mean(total, squares, n)}
