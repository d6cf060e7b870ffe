"""The embedded digits model: it is what its recipe says, and draws digits that its classifier recognises."""

import pytest
import torch

from pipelines.classifier import Classifier, load_classifier
from pipelines.digits.data import NAMES, digit_images
from pipelines.generate import generate_all
from pipelines.latents import encode_images
from pipelines.model import DiT, load
from pipelines.pretrain.recipe import Recipe, recipe_of
from pipelines.sampler import SamplerSettings


@pytest.fixture(scope="module")
def digits() -> DiT:
    """The embedded model. Not to be changed."""
    return load("digits")


@pytest.fixture(scope="module")
def classifier(digits: DiT) -> Classifier:
    """The classifier that ships with it."""
    return load_classifier(digits.classifier_dir)


def test_it_is_what_the_default_recipe_makes_of_these_images(digits: DiT) -> None:
    assert digits.classes.labels == NAMES and digits.null_class == 10
    assert recipe_of(digits.provenance) == Recipe()
    assert digits.provenance["data key"] == digit_images("train").key
    assert digits.provenance["without"] == []


def test_its_classifier_recognises_held_out_digits(classifier: Classifier) -> None:
    images = digit_images("held-out")
    assert (classifier.predict(images.pixels) == images.labels).float().mean() > 0.95


def test_its_latents_have_unit_variance(digits: DiT) -> None:
    images = digit_images("held-out")
    latents = encode_images(digits, images, cache_dir=None, flip=False)
    samples = latents.draw(torch.arange(len(images)), generator=torch.Generator().manual_seed(0))
    assert samples.std().item() == pytest.approx(1, abs=0.1)


def test_its_samples_are_recognised(digits: DiT, classifier: Classifier) -> None:
    """Four of each digit in ten steps without guidance."""
    requests = [(label, seed) for label in range(10) for seed in range(4)]
    images = generate_all(digits, requests, SamplerSettings(num_inference_steps=10))
    predicted = classifier.predict(images)
    assert (predicted == torch.tensor([label for label, _ in requests])).float().mean() > 0.85
