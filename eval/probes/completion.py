"""Let the original model begin and the probed one finish: is the class only not begun, or also not finished?

The original draws the first quarter of the sampling steps; where the shape is decided later, a model without the class
does not complete it.
"""

from eval.cost import Cost, Terms, drawing
from eval.evaluate import images_share
from eval.probe import Budget, ProbeResult, outcome, seeded_batches
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings, denoise, noise_generators, sample_latents

SHARE = 0.25  # of the sampling steps that the original model takes


def steps_before(settings: SamplerSettings) -> int:
    """Sampling steps that are done when the probed model takes over."""
    return round(SHARE * settings.num_inference_steps)


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy of images that the original model began."""
    settings = budget.protocol.sampler_settings()
    switch = steps_before(settings)

    def drawn():
        for labels, seeds in seeded_batches(budget, forget_class):
            begun = sample_latents(budget.original, labels, seeds, settings, last=switch)
            finished = denoise(model, begun, labels, noise_generators(seeds), settings, first=switch)
            yield model.decode(finished, precision=settings.decoder_precision).cpu()

    measured = images_share(drawn(), forget_class, scorer=budget.scorer)
    return outcome(measured, forget_class, detail={"steps_of_the_original": switch})


def cost(terms: Terms) -> Cost:
    """The images, whichever of the two models draws them."""
    return drawing(terms.protocol, terms.num_images)
