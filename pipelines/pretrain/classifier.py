"""Trains the timm classifier that scores a small model's images."""

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from ..classifier import Classifier, build_classifier
from ..images import ImageSet
from ..randomness import epoch_indices, generator
from .augment import random_affine
from .fit import fit
from .recipe import Recipe


def train_classifier(
    images: ImageSet, num_classes: int, recipe: Recipe, *, checkpoint_path: Path | None, progress: bool
) -> Classifier:
    """A classifier of real images at the recipe's size, trained with small affine augmentation."""
    torch.manual_seed(recipe.seed)  # timm initialises from the global generator
    classifier = build_classifier(
        recipe.classifier_architecture,
        num_classes=num_classes,
        input_size=recipe.image_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )

    def loss(step: int) -> torch.Tensor:
        batch = epoch_indices(len(images), recipe.batch_size, step, seed=recipe.seed, stream="classifier")
        draws = generator(recipe.seed, "classifier augmentation", step)
        pixels = random_affine(images.read(batch), degrees=12, scale=0.1, shift=0.1, generator=draws)
        return cross_entropy(classifier.network(pixels), images.labels[batch])

    classifier.network.train()
    fit(
        classifier.network,
        loss,
        steps=recipe.classifier_steps,
        learning_rate=recipe.classifier_learning_rate,
        weight_decay=0.05,
        checkpoint_path=checkpoint_path,
        progress="classifier" if progress else "",
    )
    classifier.network.eval()
    return classifier
