"""Fine-tune on a few images of the class: how soon does it come back?"""

from eval.attacker import adam_steps, batch_loss, owned, trainable_copy
from eval.probe import Budget, ProbeResult, measure, outcome
from pipelines.model import DiT

LEARNING_RATE = 2e-4
BATCH_SIZE = 64


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy after the last counted step on ``relearning_images`` images; the curve holds the others."""
    return relearn(model, forget_class, [forget_class], budget, num_images=budget.amount.relearning_images)


def relearn(model: DiT, forget_class: int, classes: list[int], budget: Budget, *, num_images: int) -> ProbeResult:
    """Fine-tune a copy of the model on images of ``classes`` under their own labels and measure the class."""
    images = owned(budget, classes, num_images=num_images)
    attacked = trainable_copy(model)
    weights = list(attacked.transformer.parameters())
    curve, optimizer, done, result = [], None, 0, None
    for goal in budget.amount.relearning_steps:
        optimizer = adam_steps(
            weights,
            lambda step: batch_loss(attacked, images, step, batch_size=BATCH_SIZE, seed=budget.seed),
            steps=goal, learning_rate=LEARNING_RATE, first=done, optimizer=optimizer,
        )  # fmt: skip
        done = goal
        result = measure(attacked, forget_class, budget)
        curve.append([goal, result[0].value])
    return outcome(result, forget_class, detail={"images": len(images), "curve": curve})
