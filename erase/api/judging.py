"""What scores are measured with: the classifier, the feature space and the real images that a protocol asks for."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.features import (
    INCEPTION,
    INCEPTION_FILE,
    INCEPTION_URL,
    ClassifierScorer,
    InceptionScorer,
    Scorer,
    load_inception,
)
from eval.metric import NO_FEATURES
from eval.moments import load_gaussian
from eval.protocol import OWN_CLASSIFIER, Protocol, named
from eval.reference import (
    Observations,
    Reference,
    load_observations,
    names_digest,
    observe,
    reference_from_file,
    reference_from_observations,
)
from pipelines.classifier import Classifier, load_classifier
from pipelines.errors import MissingError, UsageError
from pipelines.files import read_json
from pipelines.model import DiT
from pipelines.model_source import classifier_dir, load_classes, read_provenance
from pipelines.sources import held_out_images, open_source, trained_on_digits

from ..rundir import cache_dir

CLASSIFIERS = "a timm model, NAME:WEIGHTS for one from a file, or a folder of `erase pretrain`"


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Where the parts that a protocol names are found; None leaves each to its own place."""

    reference: str | None = None  # folder or archive of real images, or npz statistics; None: the model's own
    classifier: str | None = None  # weights file of the protocol's classifier; None: timm's
    inception: str | None = None  # weights file of torch-fidelity; None: $ERASE_INCEPTION, else the cache
    neighbours: Sequence[int] = ()  # classes whose accuracy is watched; none: those nearest in the classifier's eyes

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for the record; neighbours only where some were chosen."""
        values = asdict(self)
        chosen = list(values.pop("neighbours"))
        return {**values, **({"neighbours": chosen} if chosen else {})}

    @property
    def inception_path(self) -> Path:
        """The Inception weights."""
        named = self.inception or os.environ.get("ERASE_INCEPTION")
        return Path(named) if named else cache_dir() / INCEPTION_FILE


def pick_protocol(protocol: str | Protocol | None, model: str) -> Protocol | None:
    """A protocol by name; by default ``small`` for a model that ships its own classifier, else ``quick``."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol == "none":
        return None
    if protocol is None:
        protocol = "small" if classifier_dir(model) else "quick"
    return named(protocol)


def check_scoring(protocol: Protocol | None, model: str, judges: Judges) -> None:
    """Refuse a scoring that could only fail after the erasure (``UsageError``, ``MissingError``); loads nothing."""
    if protocol is None:
        for flag, value in judges.to_dict().items():
            if value is not None:
                raise UsageError(f"--{flag} {value} has no effect with --protocol none")
        return
    check_classifier(protocol, model, judges, own=classifier_dir(model) is not None)
    check_inception(protocol, judges)
    if judges.reference is None and not trained_on_digits(read_provenance(model)):
        raise UsageError(
            "--reference is needed to score this model: a folder or archive of real images by class, or npz statistics"
        )
    if judges.reference is not None and not Path(judges.reference).exists() and judges.reference != "digits":
        raise MissingError(f"--reference {judges.reference} does not exist")
    if judges.reference is not None and judges.reference.endswith(".npz"):
        check_statistics(protocol, model, judges.reference)


def check_statistics(protocol: Protocol, model: str, reference: str) -> None:
    """Refuse reference statistics of other features or of other classes than those that are scored (``UsageError``)."""
    _, meta = load_gaussian(Path(reference))
    space = INCEPTION
    if protocol.features != INCEPTION:
        name = protocol.classifier
        if name == OWN_CLASSIFIER:
            name = read_json(classifier_dir(model) / "config.json")["architecture"]
        space = classifier_space(read_provenance(model), name)
    if (made_in := meta.get("feature_space", space)) != space:
        wanted = "Inception" if space == INCEPTION else space
        raise UsageError(f"--reference {reference} holds {made_in} features, not those of {wanted}")
    if meta.get("classes", "") not in ("", names_digest(load_classes(model).labels)):
        raise UsageError(f"--reference {reference} was made for a model with other class names than {model}")


def classifier_space(provenance: Mapping[str, Any], classifier: str) -> str:
    """The name of the feature space of a classifier: that of the digits for every model of them."""
    return "digits" if trained_on_digits(provenance) else classifier


def check_classifier(protocol: Protocol, model: str, judges: Judges, *, own: bool) -> None:
    """Hold the classifier that a protocol names to being there, or at least to a weights file that is."""
    if protocol.classifier == OWN_CLASSIFIER:
        if not own:
            raise UsageError(f"--protocol {protocol.name} scores with the model's own classifier; {model} ships none")
        if judges.classifier is not None:
            raise UsageError(f"--classifier {judges.classifier} has no effect: the model's own classifier scores")
    elif judges.classifier is not None and not Path(judges.classifier).exists():
        raise MissingError(f"--classifier {judges.classifier} does not exist")


def check_inception(protocol: Protocol, judges: Judges) -> None:
    """Hold a protocol with Inception features to a weights file, and refuse one that nothing reads."""
    if protocol.features != INCEPTION:
        if judges.inception is not None:
            raise UsageError(f"--inception {judges.inception} has no effect with --protocol {protocol.name}")
    elif not judges.inception_path.exists():
        raise MissingError(
            f"--protocol {protocol.name} needs the Inception weights of published FID values: put {INCEPTION_URL} at "
            f"{judges.inception_path}, or name the file with --inception"
        )


def try_judges(protocol: Protocol | None, judges: Judges) -> None:
    """Load once what does not come with the model, so that a missing file is known before the erasure."""
    if protocol is not None and protocol.classifier != OWN_CLASSIFIER:
        load_classifier(protocol.classifier, weights=judges.classifier)
    if protocol is not None and protocol.features == INCEPTION:
        load_inception(judges.inception_path)


def find_classifier(given: str, *, flag: str) -> tuple[str, str | None]:
    """Source and weights file of the classifier that a flag names, for ``load_classifier``; reads no weight.

    Raises ``UsageError`` for what is no classifier and ``MissingError`` for weights that do not exist.
    """
    import timm

    for folder in (Path(given), Path(given) / "classifier", Path(given) / "model" / "classifier"):
        if (folder / "config.json").exists() and "architecture" in read_json(folder / "config.json"):
            return str(folder), None
    name, _, weights = given.partition(":")
    if Path(given).is_dir() or not timm.is_model(name):
        raise UsageError(f"{flag} {given} is no classifier: name {CLASSIFIERS}")
    if weights and not Path(weights).is_file():
        raise MissingError(f"{flag} {given}: the weights {weights} do not exist")
    return name, weights or None


def load_given_classifier(given: str, *, flag: str, num_classes: int, device: torch.device | str) -> Classifier:
    """The classifier that a flag names, if it knows as many classes as the model (``UsageError``)."""
    source, weights = find_classifier(given, flag=flag)
    classifier = load_classifier(source, weights=weights, device=device, flag=flag)
    if classifier.num_classes != num_classes:
        raise UsageError(f"{flag} {given} knows {classifier.num_classes} classes, the model has {num_classes}")
    return classifier


def check_other_classifier(name: str, scoring: str, *, given: str, flag: str) -> None:
    """Refuse a classifier that is the one that scores, by their fingerprinted names (``UsageError``)."""
    if name == scoring:
        raise UsageError(f"{flag} {given} is the classifier that scores: name another, {CLASSIFIERS}")


def protocol_scorer(model: DiT, protocol: Protocol, judges: Judges) -> Scorer:
    """What recognises classes and gives features under a protocol."""
    classifier = protocol_classifier(model, protocol, judges)
    if protocol.features == INCEPTION:
        network = load_inception(judges.inception_path, device=model.device)
        return InceptionScorer(classifier, network)
    return ClassifierScorer(classifier, feature_space=classifier_space(model.provenance, classifier.name))


def protocol_classifier(model: DiT, protocol: Protocol, judges: Judges) -> Classifier:
    """The classifier that a protocol names; ``own`` is the one that ships with the model (``UsageError`` without)."""
    if protocol.classifier != OWN_CLASSIFIER:
        return load_classifier(protocol.classifier, weights=judges.classifier, device=model.device)
    if model.classifier_dir is None:
        raise UsageError(f"--protocol {protocol.name} scores with the model's own classifier, and this model has none")
    return load_classifier(model.classifier_dir, device=model.device)


def real_reference(model: DiT, forget_classes: tuple[int, ...], *, scorer: Scorer, source: str | None) -> Reference:
    """Real images of the retained classes: observed through the scorer, or statistics from an npz.

    Statistics of ``erase stats make`` keep every image's features, so that the erased classes come out exactly; those
    of other tools cannot be taken apart, which the description says.
    """
    observations = real_observations(model, scorer=scorer, source=source)
    if observations is None:
        return reference_from_file(Path(source), feature_space=scorer.feature_space)
    return reference_without(observations, forget_classes, source=source)


def real_observations(model: DiT, *, scorer: Scorer, source: str | None) -> Observations | None:
    """Real images of all classes seen through the scorer; None for statistics that cannot be taken apart."""
    if source is not None and source.endswith(".npz"):
        return load_observations(Path(source), scorer=scorer, class_names=model.classes.labels)
    return observe(held_out_images(model, source), scorer=scorer)


def reference_without(observations: Observations, forget_classes: tuple[int, ...], *, source: str | None) -> Reference:
    """The reference that real images give once the forget classes are taken out."""
    name = "held-out digits" if source is None else Path(source).name if source.endswith(".npz") else source
    return reference_from_observations(
        observations,
        forget_classes=forget_classes,
        description=f"{len(observations.class_labels)} real images ({name}) without the erased classes",
    )


def training_observations(model: DiT, *, scorer: Scorer) -> Observations | None:
    """The images of all classes that the model was trained on, where they are known, seen through the scorer."""
    return observe(open_source("digits", model), scorer=scorer) if trained_on_digits(model.provenance) else None


def training_features(model: DiT, forget_classes: tuple[int, ...], *, scorer: Scorer) -> Tensor:
    """Features of the retained images that the model was trained on, where they are known; else empty."""
    observations = training_observations(model, scorer=scorer)
    return NO_FEATURES if observations is None else observations.without(forget_classes).features
