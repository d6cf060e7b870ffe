"""Draw without a label: does the class still appear among what the model makes of nothing?"""

from eval.evaluate import class_share
from eval.probe import Budget, ProbeResult
from pipelines.model import DiT


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Share of unconditional samples that the classifier calls the class."""
    found, pictures = class_share(
        model, forget_class, drawn_as=model.null_class, protocol=budget.unguided, scorer=budget.scorer,
        num_images=budget.num_images, batch_size=budget.batch_size,
    )  # fmt: skip
    return ProbeResult(
        value=found.value, low=found.low, high=found.high, n=found.n, pictures=pictures,
        detail={"class_label": forget_class},
    )  # fmt: skip
