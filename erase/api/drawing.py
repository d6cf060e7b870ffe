"""``erase.draw``: a look at what a model draws."""

from collections.abc import Sequence

from PIL.Image import Image

from eval.pictures import grid
from pipelines.generate import generate_all
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings

TILE = 64  # pixels to which small images are enlarged


def draw(
    model: DiT,
    *classes: str | int,
    seeds: Sequence[int] = range(8),
    guidance_scale: float = 1.0,
    guidance_start: float = 0.0,
    guidance_end: float = 1.0,
    num_inference_steps: int = 20,
) -> Image:
    """One picture with a row for each class and a column for each seed; 1 switches guidance off.

    Guidance is on between two shares of the sampling steps, counted from the noisiest.
    A seed is the same noise for every class and every model. Raises ``UsageError`` for an unknown or ambiguous class.
    """
    labels = [model.classes.resolve(query) for query in classes]
    settings = SamplerSettings(
        guidance_scale=guidance_scale,
        guidance_start=guidance_start,
        guidance_end=guidance_end,
        guided_channels=model.guided_channels,
        num_inference_steps=num_inference_steps,
    )
    images = generate_all(model, [(label, seed) for label in labels for seed in seeds], settings)
    return grid(images, columns=len(seeds), scale=max(1, TILE // images.shape[-1]))
