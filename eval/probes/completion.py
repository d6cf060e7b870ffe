"""Let the original model begin and the probed one finish: is the class only not begun, or also not finished?

The original draws the first quarter of the sampling steps; where the shape is decided later, a model without the class
does not complete it. A few images at a half and at three quarters tell how the outcome depends on it: in the end the
class is there before the probed model takes over.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from eval.cost import Cost, Terms, drawing
from eval.evaluate import images_share
from eval.probe import Budget, ProbeResult, outcome, seeded_batches
from eval.values import Value
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings, denoise, noise_generators, sample_latents

SHARES = (0.25, 0.5, 0.75)  # of the sampling steps that are done when the probed model takes over; the first counts


def steps_before(settings: SamplerSettings) -> list[int]:
    """Sampling steps that are done, for each share, each once; one at least is left."""
    count = settings.num_inference_steps
    return sorted({min(round(share * count), count - 1) for share in SHARES})


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Forget accuracy of images that the original model began."""
    settings = budget.protocol.sampler_settings()

    def drawn(switch: int, budget: Budget) -> Iterator[Tensor]:
        for labels, seeds in seeded_batches(budget, forget_class):
            begun = sample_latents(budget.original, labels, seeds, settings, last=switch)
            finished = denoise(model, begun, labels, noise_generators(seeds), settings, first=switch)
            yield model.decode(finished, precision=settings.decoder_precision).cpu()

    measured, shares = by_share(drawn, forget_class, budget)
    return outcome(measured, forget_class, detail={"by_steps": shares})


def by_share(
    drawn: Callable[[int, Budget], Iterator[Tensor]], forget_class: int, budget: Budget
) -> tuple[tuple[Value, Tensor], list[list[float]]]:
    """The outcome after the first share of the steps, and accuracy by steps, the later ones from few images.

    ``drawn`` gives the images (B, 3, H, W) of a budget that are finished after so many steps, in batches.
    """
    few = replace(budget, num_images=budget.amount.screening_images)
    measured = {
        switch: images_share(drawn(switch, few if number else budget), forget_class, scorer=budget.scorer)
        for number, switch in enumerate(steps_before(budget.protocol.sampler_settings()))
    }
    return next(iter(measured.values())), [[switch, found[0].value] for switch, found in measured.items()]


def cost(terms: Terms) -> Cost:
    """All images at the first share and few at each other, whichever of the two models draws them."""
    _, *later = steps_before(terms.protocol.sampler_settings())
    return drawing(terms.protocol, terms.num_images + len(later) * terms.amount.screening_images)
