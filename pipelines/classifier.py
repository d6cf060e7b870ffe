"""timm image classifiers with their own preprocessing: they score samples, filter replay and give features."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .errors import MissingError
from .files import check_safetensors, read_json, write_json


@dataclass(kw_only=True)
class Classifier:
    """A frozen image classifier that takes uint8 images of any size."""

    name: str
    network: nn.Module  # a timm model, its weights in channels_last: convolutions take a tenth to a third less time
    input_size: int  # pixels; images are resized to it without a crop
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes that it tells apart."""
        return self.network.num_classes

    @property
    def num_features(self) -> int:
        """Dimension of its penultimate features."""
        return self.network.num_features

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to normalised float32 (B, 3, S, S), bilinear with antialiasing where sizes differ."""
        pixels = images.to(next(self.network.parameters()).device).float() / 255
        if pixels.shape[-1] != self.input_size or pixels.shape[-2] != self.input_size:
            size = (self.input_size, self.input_size)
            pixels = interpolate(pixels, size=size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits_and_features(self, images: Tensor, *, batch_size: int = 250) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and pooled features (N, D), float32 on the CPU, of uint8 images (N, 3, H, W)."""
        logits, features = [], []
        for chunk in images.split(batch_size):
            maps = self.network.forward_features(self.preprocess(chunk))
            features.append(self.network.forward_head(maps, pre_logits=True).cpu())
            logits.append(self.network.forward_head(maps).cpu())
        return torch.cat(logits), torch.cat(features)

    def predict(self, images: Tensor) -> Tensor:
        """Predicted class indices (N,)."""
        return self.logits_and_features(images)[0].argmax(1)

    def __post_init__(self) -> None:
        self.network.to(memory_format=torch.channels_last)

    def to(self, device: torch.device | str) -> "Classifier":
        """Move the network to a device, in place."""
        self.network.to(device)
        return self


def build_classifier(
    architecture: str, *, num_classes: int, input_size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Classifier:
    """An untrained timm classifier."""
    import timm

    network = timm.create_model(architecture, num_classes=num_classes)
    return Classifier(name=architecture, network=network.eval(), input_size=input_size, mean=mean, std=std)


def save_classifier(classifier: Classifier, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": classifier.name,
        "num_classes": classifier.num_classes,
        "input_size": classifier.input_size,
        "mean": classifier.mean,
        "std": classifier.std,
    }
    state = classifier.network.state_dict()
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    write_json(config, folder / "config.json")


def load_classifier(
    source: str | Path,
    *,
    weights: str | None = None,
    device: torch.device | str = "cpu",
    flag: str = "--classifier",
) -> Classifier:
    """Load a folder of ``save_classifier``, or a pre-trained timm model by name, its weights from a file if named.

    Raises ``MissingError``, which names the ``flag``, when the weights are absent, damaged or cannot be downloaded.
    """
    folder = Path(source)
    if folder.is_dir():
        config = read_json(folder / "config.json")
        classifier = build_classifier(
            config["architecture"],
            num_classes=config["num_classes"],
            input_size=config["input_size"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
        check_safetensors(folder / "model.safetensors")
        classifier.network.load_state_dict(load_file(folder / "model.safetensors"))
        return classifier.to(device)
    return load_pretrained(str(source), weights=weights, flag=flag).to(device)


def load_pretrained(name: str, *, weights: str | None = None, flag: str = "--classifier") -> Classifier:
    """A pre-trained timm classifier by name, with the preprocessing that its weights were evaluated with.

    ``weights`` is a local file (.safetensors, or a pickle of weights alone) in the place of timm's download.
    """
    import timm

    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0]}*", pretrained=True)[:5]) or "none similar"
        raise MissingError(f"{flag} {name} is neither a folder nor a timm model; similar names: {close}")
    if weights is not None and weights.endswith(".safetensors"):
        check_safetensors(Path(weights))
    overlay = None if weights is None else {"file": weights}
    try:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise MissingError(
            f"the weights of classifier {name} cannot be had ({reason}): download its model.safetensors from "
            f"https://huggingface.co/timm/{name} and name the file with {flag}"
        ) from error
    data = timm.data.resolve_model_data_config(network)
    return Classifier(
        name=name, network=network, input_size=data["input_size"][-1], mean=tuple(data["mean"]), std=tuple(data["std"])
    )
