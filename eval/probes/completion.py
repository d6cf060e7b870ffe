"""Let the original model begin and the probed one finish: is the class only not begun, or also not finished?

The original draws the first quarter of the sampling steps; where the shape is decided later, a model without the class
does not complete it.
"""

import torch

from eval.evaluate import images_share
from eval.plan import image_seed
from eval.probe import Budget, ProbeResult, outcome
from pipelines.model import DiT
from pipelines.sampler import sample_latents

SHARE = 0.25  # of the sampling steps that the original model takes


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy of images that the original model began."""
    settings = budget.protocol.sampler_settings()
    switch = round(SHARE * settings.num_inference_steps)
    seeds = [image_seed(budget.protocol.first_seed, forget_class, number) for number in range(budget.num_images)]

    def drawn():
        for start in range(0, len(seeds), budget.batch_size):
            chunk = seeds[start : start + budget.batch_size]
            labels = torch.full((len(chunk),), forget_class)
            latents = sample_latents(budget.original, labels, chunk, settings, finisher=model, switch=switch)
            yield model.decode(latents).cpu()

    measured = images_share(drawn(), forget_class, scorer=budget.scorer)
    return outcome(measured, forget_class, detail={"steps_of_the_original": switch})
