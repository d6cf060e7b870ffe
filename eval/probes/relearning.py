"""Fine-tune on a few images of the class: how soon does it come back?

Every attack of the budget is tried: learning rates, numbers of images, low-rank updates (arXiv 2106.09685), images of
the class mixed with retained ones. The strongest is the outcome, at its best step: an attacker stops there, and
fine-tuning may bring a class back for ten steps and lose it again. All curves are kept.
"""

from torch import Tensor

from eval.attacker import adam_steps, batch_loss, owned, tuned_copy
from eval.cost import Cost, Terms, drawing, training
from eval.probe import Budget, ProbeResult, Relearning, measure, other_classes, outcome
from eval.values import Value
from pipelines.latents import Latents
from pipelines.model import DiT

BATCH_SIZE = 64
NEEDS_FLOOR = True  # a few images teach the class to any model


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Highest forget accuracy over the attacks within ``relearning_within`` steps."""
    curves, best, strongest = {}, None, ""
    for attack in budget.amount.relearnings:
        images = attack_images(attack, forget_class, budget)
        curves[attack.name], measured = relearn(model, forget_class, images, budget, attack=attack)
        if best is None or measured[0].value > best[0].value:
            best, strongest = measured, attack.name
    step = next(step for step, accuracy in curves[strongest] if accuracy == best[0].value)
    detail = {"strongest": strongest, "step": step, "curve": curves[strongest], "attacks": curves}
    return outcome(best, forget_class, detail=detail)


def attack_images(attack: Relearning, forget_class: int, budget: Budget) -> Latents:
    """The images that an attack trains on; those of the class are repeated until they are half of a mixture."""
    images = owned(budget, [forget_class], num_images=attack.num_images)
    if not attack.num_others:
        return images
    others = owned(budget, other_classes(budget.original, forget_class), num_images=attack.num_others)
    return others.joined(images.repeated(len(others)))


def relearn(
    model: DiT, forget_class: int, images: Latents, budget: Budget, *, attack: Relearning
) -> tuple[list[list[float]], tuple[Value, Tensor]]:
    """Fine-tune a copy of the model on images under their own labels.

    Returns the accuracy of the class by counted step, and its measurement with pictures at the best that counts.
    """
    attacked, weights = tuned_copy(model, rank=attack.rank, seed=budget.seed)
    curve, optimizer, done, best = [], None, 0, None
    for goal in budget.amount.relearning_steps:
        optimizer = adam_steps(
            weights,
            lambda step: batch_loss(attacked, images, step, batch_size=BATCH_SIZE, seed=budget.seed),
            steps=goal, learning_rate=attack.learning_rate, first=done, optimizer=optimizer,
        )  # fmt: skip
        done = goal
        measured = measure(attacked, forget_class, budget)
        curve.append([goal, measured[0].value])
        if goal <= budget.amount.relearning_within and (best is None or measured[0].value > best[0].value):
            best = measured
    return curve, best


def cost(terms: Terms) -> Cost:
    """Every attack of the budget."""
    return relearning_cost(terms) * len(terms.amount.relearnings)


def relearning_cost(terms: Terms) -> Cost:
    """One attack: the training, and the images at each counted step."""
    steps = terms.amount.relearning_steps
    images = drawing(terms.protocol, terms.num_images) * len(steps)
    return training(steps[-1], batch_size=BATCH_SIZE) + images
