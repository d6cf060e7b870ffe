"""Draw without a label: does the class still appear among what the model makes of nothing?"""

from eval.cost import Cost, Terms, drawing
from eval.evaluate import class_share
from eval.probe import Budget, ProbeResult, outcome
from pipelines.model import DiT


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Share of unconditional samples that the classifier calls the class."""
    measured = class_share(
        model,
        forget_class,
        drawn_as=model.null_class,
        protocol=budget.protocol.unguided(),
        scorer=budget.scorer,
        num_images=budget.num_images,
        batch_size=budget.batch_size,
    )
    return outcome(measured, forget_class)


def cost(terms: Terms) -> Cost:
    """The images."""
    return drawing(terms.protocol.unguided(), terms.num_images)
