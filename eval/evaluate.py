"""One pass over generated images feeding every metric, for the original and the erased model on identical noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import MissingError, UsageError
from pipelines.files import read_json, write_json
from pipelines.generate import generate, generate_all
from pipelines.model import DiT
from pipelines.versions import versions

from .features import Scorer
from .metric import NO_FEATURES, Batch, Context, Metric, metric_class, metric_names
from .neighbours import nearest_classes, neighbour_accuracy
from .plan import check_forget_classes, image_seed, plan_requests
from .protocol import Protocol
from .reference import Reference
from .values import Value, difference, share

NUM_NEIGHBOURS = 3


def evaluate(
    models: Mapping[str, DiT],
    *,
    forget_classes: Sequence[int],
    protocol: Protocol,
    scorer: Scorer,
    reference: Reference,
    earlier_classes: Sequence[int] = (),
    neighbours: Sequence[int] = (),
    metrics: Sequence[str] = (),
    training_features: Tensor = NO_FEATURES,
    batch_size: int = 250,
    progress: bool = False,
) -> dict[str, Any]:
    """The result record of two or more models, among them ``original`` and ``erased``, on identical noise.

    ``earlier_classes`` were erased before and count in no value but their own; no ``neighbours`` leaves them to the
    classifier, no ``metrics`` means all files of ``eval/metrics``; ``skipped`` lists those whose needs are not met.
    Raises ``UsageError`` for models, classes or references that do not fit.
    """
    check_models(models, forget_classes=forget_classes, scorer=scorer, reference=reference)
    context = Context(
        forget_classes=tuple(forget_classes), earlier_classes=tuple(earlier_classes), reference=reference,
        num_classes=models["original"].num_classes, training_features=training_features,
        inception_head=scorer.head, seed=protocol.first_seed,
    )  # fmt: skip
    chosen, skipped = choose_metrics(metrics or metric_names(), context)

    # Every model draws the same requests; nothing but its weights differs.
    drawing = {"protocol": protocol, "scorer": scorer, "batch_size": batch_size}
    scores = {
        name: score_model(model, chosen, context, **drawing, progress=f"evaluate {name}" if progress else "")
        for name, model in models.items()
    }
    labels, provenance = models["original"].id2label, {name: model.provenance for name, model in models.items()}
    record = assemble(
        scores, protocol=protocol, classifier=scorer.name, context=context, neighbours=neighbours, skipped=skipped,
        class_names=[labels[label] for label in range(context.num_classes)], provenance=provenance,
    )  # fmt: skip
    return {**record, "earlier": score_earlier(models, earlier_classes, **drawing)}


def score_model(
    model: DiT,
    metrics: Sequence[str],
    context: Context,
    *,
    protocol: Protocol,
    scorer: Scorer,
    batch_size: int = 250,
    progress: str = "",
) -> dict[str, dict[str, Any]]:
    """The values of one model in one pass over the images that the protocol draws; ``progress`` titles a bar."""
    requests = plan_requests(
        protocol,
        num_classes=model.num_classes,
        forget_classes=context.forget_classes,
        earlier_classes=context.earlier_classes,
    )
    drawn = generate(model, requests, protocol.sampler_settings(), batch_size=batch_size, progress=progress)
    return results(feed(metrics, drawn, scorer=scorer, context=context))


def check_models(
    models: Mapping[str, DiT], *, forget_classes: Sequence[int], scorer: Scorer, reference: Reference
) -> None:
    """Hold models, classes, scorer and reference to fitting together before any image is drawn (``UsageError``)."""
    if not {"original", "erased"} <= set(models):
        raise UsageError(f"an evaluation compares an original and an erased model; given: {', '.join(models)}")
    num_classes = models["original"].num_classes
    for name, model in models.items():
        if model.num_classes != num_classes:
            raise UsageError(f"the {name} model has {model.num_classes} classes, the original has {num_classes}")
    check_forget_classes(forget_classes, num_classes)
    check_judges(scorer, reference, num_classes=num_classes)


def check_judges(scorer: Scorer, reference: Reference, *, num_classes: int) -> None:
    """Hold scorer and reference to the model and to one another (``UsageError``)."""
    if scorer.num_classes != num_classes:
        raise UsageError(f"classifier {scorer.name} knows {scorer.num_classes} classes, the model has {num_classes}")
    if (reference.feature_space, reference.num_features) != (scorer.feature_space, scorer.num_features):
        raise UsageError(
            f"the reference holds {reference.num_features} {reference.feature_space} features, "
            f"images are scored by {scorer.num_features} {scorer.feature_space} features"
        )


def choose_metrics(names: Sequence[str], context: Context) -> tuple[list[str], dict[str, str]]:
    """Metrics whose needs are met, and the reason for each that is left out."""
    skipped = {}
    for name in names:
        missing = [need.replace("_", " ") for need in metric_class(name).needs if not context.has(need)]
        if missing:
            skipped[name] = f"needs {' and '.join(missing)}"
    return [name for name in names if name not in skipped], skipped


def feed(
    names: Sequence[str], drawn: Iterable[tuple[Tensor, Tensor]], *, scorer: Scorer, context: Context
) -> list[Metric]:
    """The named metrics after one pass over batches of (images, class labels); shards of a pass absorb one another."""
    metrics = [metric_class(name)(context) for name in names]
    for images, class_labels in drawn:
        logits, features = scorer.logits_and_features(images)
        batch = Batch(
            images=images,
            class_labels=class_labels,
            logits=logits,
            features=features,
            forget_classes=context.forget_classes,
        )
        for metric in metrics:
            metric.update(batch)
    return metrics


def results(metrics: Sequence[Metric]) -> dict[str, dict[str, Any]]:
    """All values of all metrics as plain JSON types."""
    return {key: value.to_dict() for metric in metrics for key, value in metric.compute().items()}


def assemble(
    scores: dict[str, dict[str, Any]],
    *,
    protocol: Protocol,
    classifier: str,
    context: Context,
    neighbours: Sequence[int],
    skipped: Mapping[str, str],
    class_names: Sequence[str],
    provenance: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The record: protocol as it was run, the values of every model, their change, and what made them."""
    neighbours = list(neighbours) or nearest_classes(scores["original"], count=NUM_NEIGHBOURS)
    for values in scores.values():
        if neighbours and "retain_accuracy" in values:
            values["neighbour_accuracy"] = neighbour_accuracy(values, neighbours)
    reference = context.reference
    original, erased = scores["original"], scores["erased"]
    return {
        "protocol": replace(protocol, classifier=classifier, reference=reference.description).to_dict(),
        "feature_space": reference.feature_space,
        "forget_classes": list(context.forget_classes),
        "class_names": list(class_names),
        "neighbours": neighbours,
        **scores,
        "delta": {key: difference(erased[key], original[key]) for key in erased},
        "probes": {},
        "skipped": dict(skipped),
        "reference": {
            "description": reference.description,
            "n": reference.gaussian.n,
            "fingerprint": reference.fingerprint,
            "classifier_accuracy": reference.accuracy.to_dict(),
        },
        "models": dict(provenance),
        "versions": versions(),
    }


def score_earlier(
    models: Mapping[str, DiT], earlier_classes: Sequence[int], *, protocol: Protocol, scorer: Scorer, batch_size: int
) -> dict[str, dict[str, Any]]:
    """Forget accuracy of every model on each class that was erased before: it shows whether the class came back."""
    drawing = {"protocol": protocol, "scorer": scorer, "num_images": protocol.num_forget_images}
    return {
        str(label): {
            name: forget_accuracy(model, label, **drawing, batch_size=batch_size)[0].to_dict()
            for name, model in models.items()
        }
        for label in earlier_classes
    }


def draw_samples(
    models: Mapping[str, DiT], class_labels: Sequence[int], *, protocol: Protocol, num_images: int = 8
) -> dict[str, Tensor]:
    """The first images (C, N, 3, H, W) that the evaluation draws of each class, for every model on identical noise."""
    requests = [
        (label, image_seed(protocol.first_seed, label, number))
        for label in class_labels
        for number in range(num_images)
    ]
    settings = protocol.sampler_settings()
    return {
        name: generate_all(model, requests, settings).unflatten(0, (len(class_labels), num_images))
        for name, model in models.items()
    }


def forget_accuracy(
    model: DiT, class_label: int, *, protocol: Protocol, scorer: Scorer, num_images: int, batch_size: int = 250
) -> tuple[Value, Tensor]:
    """Share of a class's first images that the classifier calls that class, and the first eight of them."""
    return class_share(
        model, class_label, drawn_as=class_label, protocol=protocol, scorer=scorer, num_images=num_images,
        batch_size=batch_size,
    )  # fmt: skip


def class_share(
    model: DiT,
    class_label: int,
    *,
    drawn_as: int,
    protocol: Protocol,
    scorer: Scorer,
    num_images: int,
    batch_size: int = 250,
    first: int = 0,
) -> tuple[Value, Tensor]:
    """Share of images drawn under the label ``drawn_as`` that the classifier calls ``class_label``, and eight of them.

    ``first`` is the number of the first image of the label; the null class is a label like any other.
    """
    requests = [(drawn_as, image_seed(protocol.first_seed, drawn_as, first + number)) for number in range(num_images)]
    drawn = generate(model, requests, protocol.sampler_settings(), batch_size=batch_size)
    return images_share((images for images, _ in drawn), class_label, scorer=scorer)


def images_share(drawn: Iterable[Tensor], class_label: int, *, scorer: Scorer) -> tuple[Value, Tensor]:
    """Share of uint8 images (B, 3, H, W) that the classifier calls a class, and the first eight of them."""
    hits, count, pictures = 0, 0, []
    for images in drawn:
        logits, _ = scorer.logits_and_features(images)
        hits += int((logits.isfinite().all(1) & (logits.argmax(1) == class_label)).sum())
        count += len(images)
        pictures.append(images[:8])
    return share(hits, count), torch.cat(pictures)[:8]


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write ``results.json``; it appears whole or not at all."""
    write_json(record, path)


def read_record(path: Path) -> dict[str, Any]:
    """Read a result record (``MissingError`` when it is not one)."""
    record = read_json(path)
    missing = [key for key in ("protocol", "original", "erased") if not isinstance(record, dict) or key not in record]
    if missing:
        raise MissingError(f"{path} is not a result record: it has no {missing[0]!r}")
    return record
