"""What the images of one batch look like to the judge: class logits and feature vectors, behind one interface."""

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pipelines.classifier import Classifier
from pipelines.errors import MissingError, UsageError
from pipelines.tensor_file import bits

INCEPTION = "inception"  # the TensorFlow network of published FID values: the only space whose distance is called FID
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # toshas/torch-fidelity v0.2.0


class Scorer(Protocol):
    """A classifier together with the feature space of the distances."""

    name: str  # of the classifier, with a fingerprint of its weights
    feature_space: str  # "inception", or the classifier whose features are used
    num_classes: int
    num_features: int
    head: Tensor | None  # (1008, D) from Inception features to logits; None for other features

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, D), float32 on the CPU, of uint8 images (B, 3, H, W)."""
        ...


class ClassifierScorer:
    """Logits and features from one pass of the same classifier."""

    head = None

    def __init__(self, classifier: Classifier, *, feature_space: str) -> None:
        self.classifier = classifier
        self.name = fingerprinted_name(classifier)
        self.feature_space = feature_space
        self.num_classes = classifier.num_classes
        self.num_features = classifier.num_features

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and penultimate features (B, D)."""
        return self.classifier.logits_and_features(images)


class InceptionScorer:
    """Logits from a classifier, features from the TensorFlow Inception network of published FID values."""

    feature_space = INCEPTION

    def __init__(self, classifier: Classifier, network: torch.nn.Module, *, num_features: int = 2048) -> None:
        self.classifier = classifier
        self.network = network
        self.name = fingerprinted_name(classifier)
        self.num_classes = classifier.num_classes
        self.num_features = num_features
        self.head = network.fc.weight.detach().float().cpu() if hasattr(network, "fc") else None

    @torch.no_grad()
    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of the classifier and pooled Inception features (B, 2048)."""
        logits, _ = self.classifier.logits_and_features(images)
        device = next(self.network.parameters()).device
        return logits, self.network(images.to(device)).float().cpu()


def fingerprinted_name(classifier: Classifier) -> str:
    """The classifier's name and eight hex digits of its weights: two classifiers never pass for one."""
    digest = hashlib.sha256()
    for name, tensor in sorted(classifier.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(bits(tensor).numpy())
    return f"{classifier.name} ({digest.hexdigest()[:8]})"


def load_inception(path: Path, *, sha256: str | None = None, device: torch.device | str = "cpu") -> torch.nn.Module:
    """torchmetrics' Inception with a local weights file, without antialiasing; images go in as rounded uint8.

    Raises ``MissingError`` when the file is absent and ``UsageError`` when it is not the file with this sha256, which
    is that of the published weights unless another is given.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    # The file is a pickle: it is identified before it is read, and read as weights only.
    if not path.exists():
        raise MissingError(f"the Inception weights {path} do not exist; torch-fidelity v0.2.0 publishes them")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = sha256 or INCEPTION_SHA256
    if found != wanted:
        raise UsageError(f"{path} has sha256 {found[:16]}..., expected {wanted[:16]}...: these are other weights")
    torch.load(path, weights_only=True, map_location="cpu")

    network = NoTrainInceptionV3(
        name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(path), antialias=False
    )
    return network.to(device, memory_format=torch.channels_last)
