"""Fine-tune on images of the other classes alone: does the class come back without being shown?"""

from eval.probe import Budget, ProbeResult
from eval.probes.relearning import relearn
from pipelines.model import DiT


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy after the last counted step on retained images."""
    others = [index for index in range(model.num_classes) if index != forget_class]
    return relearn(model, forget_class, others, budget, num_images=budget.amount.retained_images)
