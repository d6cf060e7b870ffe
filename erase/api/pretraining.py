"""Scores and card of a pre-trained small model: does it draw what it is asked for, as varied as the real images?"""

from pathlib import Path
from typing import Any

import torch

from eval.evaluate import feed, results
from eval.features import ClassifierScorer
from eval.metric import Context
from eval.protocol import named
from eval.reference import Observations, observe, reference_from_observations
from pipelines.classifier import load_classifier
from pipelines.digits.data import digit_images
from pipelines.files import write_json, write_text
from pipelines.generate import generate
from pipelines.image_set import ImageSet
from pipelines.images import open_images
from pipelines.model import DiT

METRICS = ("retain_accuracy", "frechet", "precision_recall", "nearest", "degenerate_rate")
NUM_IMAGES = 1000


def real_images(model: DiT) -> tuple[ImageSet, ImageSet]:
    """Training images and those to compare with: held-out digits, or the training images again for other data."""
    if model.provenance["data"] == "digits":
        return digit_images("train"), digit_images("held-out")
    training = open_images(model.provenance["data"], model.classes, image_size=model.image_size).decodable()
    return training, training


def score_pretrained(model: DiT, *, seed: int = 0, progress: bool) -> dict[str, Any]:
    """Accuracy by class, Frechet distance, recall and copying of generated images, and what real images score."""
    training, compared = real_images(model)
    scorer = ClassifierScorer(load_classifier(model.classifier_dir), feature_space=model.provenance["data"])
    seen, held_out = observe(training, scorer=scorer), observe(compared, scorer=scorer)
    reference = reference_from_observations(held_out, forget_classes=(), description=f"{len(compared)} real images")
    context = Context(
        forget_classes=(),
        num_classes=model.num_classes,
        reference=reference,
        training_features=seen.features,
        seed=seed,
    )

    # Generated images, balanced over the classes that the model was trained on.
    left_out = {model.classes.resolve(name) for name in model.provenance["without"]}
    labels = [label for label in range(model.num_classes) if label not in left_out]
    requests = [(labels[number % len(labels)], number) for number in range(NUM_IMAGES)]
    settings = named("small").sampler_settings()
    drawn = generate(model, requests, settings, progress="scoring" if progress else "")
    return {
        "sampler": vars(settings),
        "num_images": NUM_IMAGES,
        "classifier_accuracy": reference.accuracy.to_dict(),
        "generated": results(feed(METRICS, drawn, scorer=scorer, context=context)),
        "training_images": results(
            feed(METRICS[1:3], as_batches(training, seen, seed), scorer=scorer, context=context)
        ),
    }


def as_batches(images: ImageSet, seen: Observations, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As many training images as are generated, as if they had been drawn."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:NUM_IMAGES]
    return [(images.read(chunk), seen.class_labels[chunk]) for chunk in order.split(250)]


def write_card(model: DiT, scores: dict[str, Any], folder: Path) -> None:
    """``scores.json`` and the model card."""
    write_json(scores, folder / "scores.json")
    generated, training = scores["generated"], scores["training_images"]
    accuracy = generated["retain_accuracy"]
    classes = accuracy["detail"]["per_class"]
    worst = min(classes, key=lambda label: classes[label]["value"])
    recipe = model.provenance["recipe"]
    text = f"""# {folder.name}

A class-conditional diffusion transformer with learned variance over the latents of a small VAE, with the classifier
that scores it. Made by `erase pretrain {model.provenance["data"]}`; the recipe is in `dit.json`.

| what | value |
|---|---|
| classes | {", ".join(model.classes.labels)} |
| left out of training | {", ".join(model.provenance["without"]) or "none"} |
| transformer | {recipe["num_layers"]} layers, width {recipe["num_attention_heads"] * recipe["attention_head_dim"]}, \
{sum(parameter.numel() for parameter in model.transformer.parameters()):,} weights |
| training | {recipe["transformer_steps"]:,} steps of batch {recipe["batch_size"]}, seed {recipe["seed"]} |
| classifier on real images that it was not trained on | {scores["classifier_accuracy"]["value"]:.1%} |
| generated images recognised ({scores["num_images"]:,} at 20 DPM-Solver++ steps, no guidance) \
| {accuracy["value"]:.1%} on average, {classes[worst]["value"]:.1%} for {model.classes.labels[int(worst)]} |
| Frechet distance to held-out real images (classifier features, n = {scores["num_images"]:,}) \
| {generated["frechet"]["value"]:.2f}; training images score {training["frechet"]["value"]:.2f} |
| recall | {generated["recall"]["value"]:.2f}; training images score {training["recall"]["value"]:.2f} |
| nearer to a training than to a held-out image | {generated["copying"]["value"]:.0%} (50 % is no copying) |
"""
    write_text(text, folder / "README.md")
