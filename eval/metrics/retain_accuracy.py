"""Mean over the retained classes of the share of their images that the classifier recognises."""

from eval.metric import Batch, Display, Metric
from eval.values import Value, share, wilson


class RetainAccuracy(Metric):
    """Balanced accuracy over retained classes, with one entry per class from which the neighbours' follows."""

    shows = (
        Display(
            key="retain_accuracy",
            title="Retain accuracy",
            better="higher",
            unit="share",
            meaning="How often the classifier recognises the class that was asked for, averaged over the others.",
        ),
        Display(
            key="neighbour_accuracy",
            title="Neighbour accuracy",
            better="higher",
            unit="share",
            meaning="The same for the classes that look most like the erased one: they suffer first.",
        ),
    )

    def update(self, batch: Batch) -> None:
        """Count hits among the images of the retained classes."""
        labels = batch.class_labels[~batch.is_forget]
        self.count("images", labels)
        self.count("hits", labels[batch.predicted[~batch.is_forget] == labels])

    def compute(self) -> dict[str, Value]:
        """``retain_accuracy``; classes without an image are left out of the mean."""
        images, hits = self.total("images"), self.total("hits")
        drawn = [label for label in range(len(images)) if images[label] > 0]
        if not drawn:
            return {"retain_accuracy": Value(value=None, n=0)}
        balanced = float((hits[drawn].double() / images[drawn]).mean())

        # The mean of K shares varies like one share of K^2 / sum(1/n_k) images, which is n when the n_k are equal.
        effective = len(drawn) ** 2 / float((1 / images[drawn].double()).sum())
        low, high = wilson(balanced * effective, effective)
        per_class = {str(label): share(int(hits[label]), int(images[label])).to_dict() for label in drawn}
        detail = {"per_class": per_class}
        return {"retain_accuracy": Value(value=balanced, low=low, high=high, n=int(images.sum()), detail=detail)}
