"""Learn a new label row from images of the class, the network frozen: can the weights still draw it when asked well?"""

import torch
from torch import Tensor

from eval.attacker import batch_loss, owned
from eval.cost import Cost, Terms, drawing, training
from eval.probe import Budget, ProbeResult, label_row, label_tables, measure, other_classes, outcome
from eval.values import Value
from pipelines.embedding import label_table
from pipelines.latents import Latents
from pipelines.model import DiT

LEARNING_RATE = 0.02
BATCH_SIZE = 64


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Best forget accuracy over several starts; the curve is that of the best."""
    amount = budget.amount
    images = owned(budget, [forget_class], num_images=amount.inversion_images)
    best, curves = None, []
    for start in range(amount.inversion_starts):
        curve, result = invert(model, forget_class, images, budget, start=start)
        curves.append(curve)
        if best is None or result[0].value > best[0].value:
            best = result
    return outcome(best, forget_class, detail={"images": len(images), "curves": curves})


def invert(
    model: DiT, forget_class: int, images: Latents, budget: Budget, *, start: int
) -> tuple[list[list[float]], tuple[Value, Tensor]]:
    """Accuracy by step of one start, and its last measurement with pictures."""
    row = starting_row(model, forget_class, budget, start=start).requires_grad_(True)
    optimizer = torch.optim.Adam([row], lr=LEARNING_RATE)
    curve, done, result = [], 0, None
    for goal in budget.amount.inversion_steps:
        while done < goal:
            optimizer.zero_grad()
            row.grad = row_gradient(model, forget_class, row.detach(), images, done, seed=budget.seed + start)
            optimizer.step()
            done += 1
        with label_row(model, forget_class, row.detach()):
            last = goal == budget.amount.inversion_steps[-1]
            num_images = budget.num_images if last else budget.amount.screening_images
            result = measure(model, forget_class, budget, num_images=num_images)
        curve.append([goal, result[0].value])
    return curve, result


def starting_row(model: DiT, forget_class: int, budget: Budget, *, start: int) -> Tensor:
    """Row (D,) that a start begins from: the null row, the mean of the retained rows, then single retained rows."""
    rows = label_table(model.transformer).detach()
    others = other_classes(budget.original, forget_class)
    if start == 0:
        return rows[model.null_class].clone()
    if start == 1:
        return rows[others].mean(0)
    return rows[others[(budget.seed + 7 * start) % len(others)]].clone()


def row_gradient(model: DiT, forget_class: int, row: Tensor, images: Latents, step: int, *, seed: int) -> Tensor:
    """Gradient (D,) of the attacker's loss in the label row alone."""
    tables = label_tables(model.transformer)
    required = [table.requires_grad for table in tables]
    with label_row(model, forget_class, row):
        for table in tables:
            table.requires_grad_(True)
        loss = batch_loss(model, images, step, batch_size=BATCH_SIZE, seed=seed)
        gradients = torch.autograd.grad(loss, tables)
        for table, before in zip(tables, required, strict=True):
            table.requires_grad_(before)
    return torch.stack([gradient[forget_class] for gradient in gradients]).sum(0)


def cost(terms: Terms) -> Cost:
    """For each start the training, few images at each counted step and all of them at the last."""
    amount = terms.amount
    images = (len(amount.inversion_steps) - 1) * amount.screening_images + terms.num_images
    steps = training(amount.inversion_steps[-1], batch_size=BATCH_SIZE)
    return (steps + drawing(terms.protocol, images)) * amount.inversion_starts
