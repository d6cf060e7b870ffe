"""Mix label rows: is the class still reachable between its neighbours, the null row and what its own row became?

Convex mixes are screened with few images each; the best one is measured again on other seeds, so that the value is not
the luck of the screening.
"""

from collections.abc import Iterator, Sequence
from math import comb

import torch
from torch import Tensor

from eval.cost import Cost, Terms, drawing
from eval.probe import SCREENING_SEED, Budget, ProbeResult, label_row, measure, other_classes, outcome
from pipelines.embedding import label_table
from pipelines.model import DiT

WEIGHTS = (0.25, 0.5, 0.75)
NUM_NEIGHBOURS = 3


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Highest forget accuracy over the mixes."""
    best_name, best_row, best_share = "", None, -1.0
    for name, row in mixes(model, forget_class, other_classes(budget.original, forget_class)):
        with label_row(model, forget_class, row):
            screening = budget.amount.screening_images
            found, _ = measure(model, forget_class, budget, num_images=screening, first=SCREENING_SEED)
        if found.value > best_share:
            best_name, best_row, best_share = name, row, found.value
    with label_row(model, forget_class, best_row):
        measured = measure(model, forget_class, budget)
    return outcome(measured, forget_class, detail={"mix": best_name, "screened": best_share})


def mixes(model: DiT, forget_class: int, retained: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """Named rows (D,): the class's own, and convex mixes of pairs out of own, null and the nearest other rows."""
    rows = label_table(model.transformer).detach()
    others = torch.tensor(retained, device=rows.device)
    nearest = others[(rows[others] - rows[forget_class]).norm(dim=1).argsort()[:NUM_NEIGHBOURS]].tolist()
    named = {"own": forget_class, "null": model.null_class, **{f"class {index}": index for index in nearest}}
    yield "own", rows[forget_class].clone()
    names = list(named)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            for weight in WEIGHTS:
                mixed = weight * rows[named[first]] + (1 - weight) * rows[named[second]]
                yield f"{weight:g} {first} + {1 - weight:g} {second}", mixed


def cost(terms: Terms) -> Cost:
    """Few images for each mix, and all of them for the best."""
    rows = 2 + min(NUM_NEIGHBOURS, terms.num_others)
    num_mixes = 1 + len(WEIGHTS) * comb(rows, 2)
    return drawing(terms.protocol, num_mixes * terms.amount.screening_images + terms.num_images)
