"""Put the original label row back: an erasure of the label embedding alone is undone by copying one vector."""

from eval.cost import Cost, Terms, drawing
from eval.probe import Budget, ProbeResult, label_row, measure, outcome
from pipelines.embedding import label_table
from pipelines.model import DiT


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy after the swap, beside the accuracy before it; the model's own row is restored."""
    before, _ = measure(model, forget_class, budget)
    row = label_table(budget.original.transformer)[forget_class].detach().clone()
    with label_row(model, forget_class, row):
        after = measure(model, forget_class, budget)
    return outcome(after, forget_class, detail={"before": before.to_dict()})


def cost(terms: Terms) -> Cost:
    """The images before and after."""
    return drawing(terms.protocol, terms.num_images) * 2
