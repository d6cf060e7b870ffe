"""Share of the images of retained classes that the classifier calls an erased class."""

import torch

from eval.metric import Batch, Display, Metric
from eval.values import Value, share


class Leakage(Metric):
    """The erased class turning up under other labels."""

    shows = (
        Display(
            key="leakage",
            title="Leakage",
            better="lower",
            unit="share",
            meaning="How often an image asked for under another label is recognised as the erased class.",
        ),
    )

    def update(self, batch: Batch) -> None:
        """Count images of retained classes that are called a forget class."""
        predicted = batch.predicted[~batch.is_forget]
        called = torch.isin(predicted, torch.tensor(self.context.forget_classes))
        self.add("counts", torch.stack([called.sum(), torch.tensor(len(predicted))]))

    def compute(self) -> dict[str, Value]:
        """``leakage``."""
        called, images = self.sums.get("counts", torch.zeros(2)).tolist()
        return {"leakage": share(int(called), int(images))}
