"""Noise a real image of the class and let the model finish it (SDEdit, arXiv 2108.01073): is the class still drawn?

The image is noised to where a quarter of the sampling steps are done, so that its layout shows through and its detail
is the model's; a few to where a half and three quarters are. How much survives in a model that never saw the class is
the floor.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from eval.attacker import owned
from eval.cost import Cost, Terms, drawing
from eval.probe import Budget, ProbeResult, outcome, seeded_batches
from eval.probes.completion import by_share, steps_before
from pipelines.model import DiT
from pipelines.randomness import generator
from pipelines.sampler import denoise, noise_generators, noised_to


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy of images that real ones began."""
    settings = budget.protocol.sampler_settings()
    images = owned(budget, [forget_class], num_images=budget.num_images)
    posterior = images.draw(torch.arange(len(images)), generator=generator(budget.seed, "completed images"))

    def drawn(first: int, budget: Budget) -> Iterator[Tensor]:
        start = 0
        for labels, seeds in seeded_batches(budget, forget_class):
            chosen = posterior[torch.arange(start, start + len(seeds)) % len(posterior)]
            start += len(seeds)
            generators = noise_generators(seeds)
            begun = noised_to(model, chosen, generators, settings, first=first)
            finished = denoise(model, begun, labels, generators, settings, first=first)
            yield model.decode(finished, precision=settings.decoder_precision).cpu()

    measured, shares = by_share(drawn, forget_class, budget)
    return outcome(measured, forget_class, detail={"by_steps": shares, "images": len(images)})


def cost(terms: Terms) -> Cost:
    """The images without the steps that the noise replaces: all at the first share, few at each other."""
    first, *later = steps_before(terms.protocol.sampler_settings())
    found = drawing(terms.protocol, terms.num_images, skipped_steps=first)
    for skipped in later:
        found = found + drawing(terms.protocol, terms.amount.screening_images, skipped_steps=skipped)
    return found
