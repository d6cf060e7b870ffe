"""Steer the sampling with the gradient of a classifier (arXiv 2105.05233, algorithm 2): can the class be drawn out?

The attacker trains a classifier of noisy latents on images of all classes; it is not the one that measures. Label and
scale are screened with few images each, and the best pair is measured again on other seeds.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eval.cost import Cost, Terms, drawing
from eval.evaluate import class_share
from eval.probe import SCREENING_SEED, Amount, Budget, ProbeResult, outcome
from pipelines.errors import UsageError
from pipelines.model import DiT
from pipelines.posterior import Posterior, PosteriorRecipe
from pipelines.posterior_head import (
    PosteriorKind,
    gradient_flops,
    latent_shape_of,
    make_posterior,
    posterior_kind,
    recipe_of,
    training_flops,
)

SCALES = (1.0, 2.0, 4.0, 8.0)
NEEDS_FLOOR = True  # a classifier that knows the class steers any model to it


def run(model: DiT, forget_class: int, budget: Budget) -> ProbeResult:
    """Highest forget accuracy over labels (the class's own and the null one) and scales."""
    if budget.images is None:
        raise UsageError("this attack needs images of all classes: name them with --data")
    original, kind = budget.original, posterior_kind("auto", budget.original.latent_shape)
    recipe = recipe_within(budget.amount, kind, original.num_classes)
    classifier = make_posterior(
        original, budget.images, kind, recipe, seed=budget.seed, cache_dir=budget.cache_dir
    )  # fmt: skip

    def share(label: int, scale: float, num_images: int, first: int) -> Any:
        steered = Steered(model, classifier, wanted=forget_class, scale=scale)
        return class_share(
            steered, forget_class, drawn_as=label, protocol=budget.protocol.unguided(), scorer=budget.scorer,
            num_images=num_images, batch_size=budget.batch_size, first=first,
        )  # fmt: skip

    pairs = [(label, scale) for label in (forget_class, model.null_class) for scale in SCALES]
    screened = {pair: share(*pair, budget.amount.screening_images, SCREENING_SEED)[0].value for pair in pairs}
    label, scale = max(pairs, key=screened.__getitem__)
    by_scale = [[scale, screened[drawn_as, scale]] for drawn_as, scale in pairs if drawn_as == label]
    detail = {"label": "own" if label == forget_class else "null", "scale": scale, "screened": by_scale}
    return outcome(share(label, scale, budget.num_images, 0), forget_class, detail=detail)


class Steered:
    """A model whose noise prediction is moved along the gradient of log p(wanted | x_t); all else is the model's."""

    def __init__(self, model: DiT, classifier: Posterior, *, wanted: int, scale: float) -> None:
        self.model = model
        self.classifier = classifier
        self.wanted = wanted
        self.scale = scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        """Output (B, 2C, H, W): e - sqrt(1 - abar_t) s grad log p(wanted | x_t), and the variance as it is."""
        with torch.enable_grad():
            inputs = noisy_latents.detach().requires_grad_(True)
            log_shares = self.classifier(inputs, timesteps).log_softmax(1)[:, self.wanted]
            gradient = torch.autograd.grad(log_shares.sum(), inputs)[0]
        noise_pred, variance_pred = self.model.predict(noisy_latents, timesteps, class_labels).chunk(2, dim=1)
        sigma = self.model.noise_schedule.at("noise", timesteps)
        return torch.cat([noise_pred - self.scale * sigma * gradient, variance_pred], dim=1)


def recipe_within(amount: Amount, kind: PosteriorKind, num_classes: int) -> PosteriorRecipe:
    """How the attacker trains its classifier."""
    return replace(recipe_of(kind, num_classes), steps=amount.classifier_steps)


def cost(terms: Terms) -> Cost:
    """Few images for each label and scale, all of them for the best, and in each of their rows the classifier."""
    config = terms.transformer_config
    kind = posterior_kind("auto", latent_shape_of(config))
    recipe = recipe_within(terms.amount, kind, config["num_embeds_ada_norm"])
    drawn = drawing(terms.protocol.unguided(), 2 * len(SCALES) * terms.amount.screening_images + terms.num_images)
    steering = drawn.forward_rows * gradient_flops(kind, config, row_flops=terms.row_flops)
    trained = training_flops(kind, config, recipe, row_flops=terms.row_flops)
    return drawn + Cost(classifier_flops=steering, training_flops=trained)
