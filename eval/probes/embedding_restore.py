"""Put the original label row back: an erasure of the label embedding alone is undone by copying one vector."""

from eval.evaluate import forget_accuracy
from eval.probe import Budget, ProbeResult, label_row
from pipelines.embedding import label_table
from pipelines.model import DiT


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy after the swap, beside the accuracy before it; the model's own row is restored."""
    before, _ = forget_accuracy(
        model,
        forget_class,
        protocol=budget.protocol,
        scorer=budget.scorer,
        num_images=budget.num_images,
        batch_size=budget.batch_size,
    )
    row = label_table(budget.original.transformer)[forget_class].detach().clone()
    with label_row(model, forget_class, row):
        after, pictures = forget_accuracy(
            model,
            forget_class,
            protocol=budget.protocol,
            scorer=budget.scorer,
            num_images=budget.num_images,
            batch_size=budget.batch_size,
        )
    return ProbeResult(
        value=after.value,
        low=after.low,
        high=after.high,
        n=after.n,
        pictures=pictures,
        detail={"class_label": forget_class, "before": before.to_dict()},
    )
