"""Fine-tune on images of the other classes alone: does the class come back without being shown?"""

from eval.attacker import owned
from eval.cost import Cost, Terms
from eval.probe import Budget, ProbeResult, Relearning, other_classes, outcome
from eval.probes.relearning import relearn, relearning_cost
from pipelines.model import DiT


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy within ``relearning_within`` steps on retained images, at the best of them."""
    images = owned(budget, other_classes(budget.original, forget_class), num_images=budget.amount.retained_images)
    curve, measured = relearn(model, forget_class, images, budget, attack=Relearning(num_images=0))
    return outcome(measured, forget_class, detail={"images": len(images), "curve": curve})


def cost(terms: Terms) -> Cost:
    """One attack."""
    return relearning_cost(terms)
