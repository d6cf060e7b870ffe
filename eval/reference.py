"""Real images, seen through the same scorer as the generated ones, once the forget classes are taken out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines.errors import UsageError

from .features import Scorer
from .moments import Gaussian, Moments, load_gaussian, read_npz
from .values import Value, share


class Images(Protocol):
    """Labelled images that can be read by index, as ``pipelines.images.ImageSet``."""

    labels: Tensor  # (N,)
    key: str  # identifies the data

    def __len__(self) -> int: ...

    def read(self, indices: Tensor) -> Tensor:
        """uint8 (B, 3, H, W)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Labels, predictions and features of a set of real images."""

    class_labels: Tensor  # (N,)
    predicted: Tensor | None  # (N,); None where another classifier made them
    features: Tensor  # (N, D)
    feature_space: str
    key: str

    def without(self, classes: tuple[int, ...]) -> "Observations":
        """The images of all other classes."""
        return self.where(~torch.isin(self.class_labels, torch.tensor(classes)))

    def only(self, classes: tuple[int, ...]) -> "Observations":
        """The images of these classes."""
        return self.where(torch.isin(self.class_labels, torch.tensor(classes)))

    def where(self, keep: Tensor) -> "Observations":
        """The images that a mask (N,) of bool keeps."""
        return Observations(
            class_labels=self.class_labels[keep],
            predicted=None if self.predicted is None else self.predicted[keep],
            features=self.features[keep],
            feature_space=self.feature_space,
            key=self.key,
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What generated images of the retained classes are compared with."""

    gaussian: Gaussian
    features: Tensor  # (N, D); empty when only statistics are known
    accuracy: Value  # of the classifier on these real images
    feature_space: str
    description: str
    fingerprint: str  # of the statistics
    removed_features: Tensor  # (M, D) of real images of the classes that were taken out; empty when not known

    @property
    def num_features(self) -> int:
        """Dimension D of the feature space."""
        return len(self.gaussian.mean)


def observe(images: Images, *, scorer: Scorer, batch_size: int = 250) -> Observations:
    """Score every image of a set once."""
    predicted, features = [], []
    for indices in torch.arange(len(images)).split(batch_size):
        logits, rows = scorer.logits_and_features(images.read(indices))
        predicted.append(logits.argmax(1))
        features.append(rows)
    return Observations(
        class_labels=images.labels,
        predicted=torch.cat(predicted),
        features=torch.cat(features),
        feature_space=scorer.feature_space,
        key=images.key,
    )


def reference_from_observations(
    observations: Observations, *, forget_classes: tuple[int, ...], description: str
) -> Reference:
    """The reference that is left once the forget classes are taken out."""
    retained = observations.without(forget_classes)
    if len(retained.features) < 2:
        raise UsageError(f"{description}: {len(retained.features)} images of retained classes, at least 2 are needed")
    moments = Moments(retained.features.shape[1]).update(retained.features)
    gaussian = moments.gaussian()
    return Reference(
        gaussian=gaussian,
        features=retained.features,
        accuracy=accuracy_of(retained),
        feature_space=retained.feature_space,
        description=description,
        fingerprint=_fingerprint(gaussian),
        removed_features=observations.only(forget_classes).features,
    )


def accuracy_of(observations: Observations) -> Value:
    """Share of real images that the classifier recognises; without a value where it did not see them."""
    if observations.predicted is None:
        return Value(value=None, n=0)
    hits = int((observations.predicted == observations.class_labels).sum())
    return share(hits, len(observations.class_labels))


def save_observations(
    observations: Observations, path: Path, *, classifier: str, class_names: Sequence[str], meta: Mapping[str, Any]
) -> None:
    """Write npz: the statistics that other tools read, and labels, predictions and features of every image.

    The features let any class be taken out exactly later.
    """
    moments = Moments(observations.features.shape[1]).update(observations.features)
    rows = {
        "features": observations.features.float().numpy(),
        "class_labels": observations.class_labels.numpy(),
        "predicted": observations.predicted.numpy(),
    }
    about = {
        **meta,
        "feature_space": observations.feature_space,
        "key": observations.key,
        "classifier": classifier,
        "classes": names_digest(class_names),
    }
    moments.save(path, meta=about, rows=rows)


def names_digest(class_names: Sequence[str]) -> str:
    """Twelve hex digits of class names in order: labels mean the same only where these are equal."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()[:12]


def load_observations(path: Path, *, scorer: Scorer, class_names: Sequence[str]) -> Observations | None:
    """What ``save_observations`` wrote; None for statistics of another tool.

    Raises ``UsageError`` for other features or other classes. Predictions of another classifier are left out.
    """
    _, meta = load_gaussian(path)
    arrays, held = read_npz(path, "class_labels", "predicted", "features")
    if "features" not in held:
        return None
    rows: dict[str, Tensor | None] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if meta["feature_space"] != scorer.feature_space:
        raise UsageError(f"{path} holds {meta['feature_space']} features, this evaluation uses {scorer.feature_space}")
    if meta["classes"] != names_digest(class_names):
        raise UsageError(f"{path} was made for a model with other class names, so no class can be taken out of it")
    if meta["classifier"] != scorer.name:
        rows["predicted"] = None
    return Observations(**rows, feature_space=scorer.feature_space, key=meta["key"])


def reference_from_file(path: Path, *, feature_space: str) -> Reference:
    """Statistics of retained classes from an npz of our own, of ADM or of clean-fid; metrics on features are left out.

    Raises ``UsageError`` when the file says that it was made in another feature space.
    """
    gaussian, meta = load_gaussian(path)
    made_in = meta.get("feature_space", feature_space)
    if made_in != feature_space:
        raise UsageError(f"{path} holds statistics of {made_in} features, this evaluation uses {feature_space}")
    return Reference(
        gaussian=gaussian,
        features=torch.empty(0, len(gaussian.mean)),
        accuracy=Value(value=None, n=0),
        feature_space=feature_space,
        description=meta.get("description", path.name),
        fingerprint=_fingerprint(gaussian),
        removed_features=torch.empty(0, len(gaussian.mean)),
    )


def _fingerprint(gaussian: Gaussian) -> str:
    """Eight hex digits of the mean, rounded so that the order of the images does not matter."""
    return hashlib.sha256(gaussian.mean.float().numpy().round(3).tobytes()).hexdigest()[:8]
