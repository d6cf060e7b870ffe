"""Where training data come from: the embedded digits, images on disk, or the model's own samples."""

import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .digits.data import digit_images
from .errors import MissingError, UsageError
from .images import ImageSet, open_images
from .latents import Latents, encode_images, store, stored
from .model import DiT
from .model_source import EMBEDDED, read_provenance
from .progress import bar_of
from .randomness import stream_seed
from .ranks import everywhere, in_parts, is_first, num_ranks, on_first
from .sampler import SamplerSettings, sample_latents

REPLAY = "replay"


def default_source(model: str) -> str:
    """The data that a model is erased on when none are named: the digits for a model made of them, else replay."""
    return "digits" if trained_on_digits(read_provenance(model)) else REPLAY


def check_source(source: str) -> None:
    """Refuse a data source that does not exist, before anything is loaded (``MissingError``)."""
    if source not in (REPLAY, *EMBEDDED) and not Path(source).exists():
        raise MissingError(f"--data {source} does not exist; give a folder, a zip, {', '.join(EMBEDDED)} or {REPLAY}")


def open_source(
    source: str, model: DiT, *, classes: Sequence[int] = (), num_images: int = 0, seed: int = 0
) -> ImageSet:
    """The readable images of a source that is not replay.

    ``classes`` takes those of some classes alone, ``num_images`` a random sample balanced over the classes.
    """
    if source == "digits":
        images = digits_for(model, "train")
    else:
        images = open_images(source, model.classes, image_size=model.image_size)
    if classes:
        images = images.of_classes(classes)
    if num_images:
        images = images.balanced(num_images, seed=seed)
    return images.decodable()


def tell_skipped(images: ImageSet) -> None:
    """Count and name on stderr the files that were left out."""
    if images.skipped and is_first():
        first = "; ".join(f"{name}: {reason}" for name, reason in images.skipped[:5])
        more = f"; and {len(images.skipped) - 5} more" if len(images.skipped) > 5 else ""
        print(f"left out {len(images.skipped)} of the files found: {first}{more}", file=sys.stderr)


def digits_for(model: DiT, split: Literal["train", "held-out"]) -> ImageSet:
    """The embedded digits, if the model has their classes and their size (``UsageError``)."""
    images = digit_images(split)
    if images.class_names != model.classes or images.image_size != model.image_size:
        raise UsageError(
            f"the embedded digits are {len(images.class_names)} classes of {images.image_size} pixels, the model has "
            f"{model.num_classes} of {model.image_size}; give a folder or archive of its own classes"
        )
    return images


def training_latents(
    model: DiT,
    source: str,
    *,
    cache_dir: Path | None,
    replay_per_class: int,
    seed: int,
    progress: bool,
    classes: Sequence[int] = (),
    num_images: int = 0,
) -> Latents:
    """Latents from a source, encoded or sampled once and kept in the cache.

    ``classes`` and ``num_images`` choose among images as ``open_source`` does; replay is of every class.
    """
    if source == REPLAY:
        latents = replay_latents(model, per_class=replay_per_class, seed=seed, cache_dir=cache_dir, progress=progress)
        return latents.of_classes(list(classes)) if classes else latents
    flip = source != "digits"  # a mirrored digit is another sign
    images = open_source(source, model, classes=classes, num_images=num_images, seed=seed)
    if progress:
        tell_skipped(images)
    return encode_images(model, images, cache_dir=cache_dir, flip=flip, progress="encoding" if progress else "")


def replay_latents(
    model: DiT, *, per_class: int, seed: int, cache_dir: Path | None, progress: bool, batch_size: int = 250
) -> Latents:
    """The model's own samples of every class, at guidance 1, as latents without posterior noise."""
    settings = SamplerSettings(guided_channels=model.guided_channels)
    path = None
    if cache_dir is not None:
        digest = sha256(json.dumps([vars(settings), per_class, seed, model.behaviour()]).encode())
        for tensor in model.transformer.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        path = cache_dir / f"replay-{digest.hexdigest()[:12]}.safetensors"
        kept = stored(path)
        if everywhere(kept is not None):
            return kept

    class_labels = torch.arange(model.num_classes).repeat(per_class)

    def sample(chunk: Tensor) -> Tensor:
        seeds = [stream_seed(seed, "replay", index) for index in chunk.tolist()]
        return sample_latents(model, class_labels[chunk], seeds, settings).cpu()

    sampled = []
    with bar_of(len(class_labels), "replay", unit="image", shown=progress) as bar:
        for chunk in torch.arange(len(class_labels)).split(batch_size * num_ranks()):
            sampled.append(in_parts(sample, chunk))
            bar.update(len(chunk))
    mean = torch.cat(sampled)[:, None]
    latents = Latents(mean=mean, std=torch.zeros_like(mean), class_labels=class_labels)
    if path is not None:
        on_first(lambda: store(latents, path))
    return latents


def held_out_images(model: DiT, source: str | None) -> ImageSet:
    """Real images that a model was not trained on, to compare its samples with.

    The embedded digits have their own; other models need a folder or archive (``UsageError`` without one).
    """
    if source is None and trained_on_digits(model.provenance):
        return digits_for(model, "held-out")
    if source is None:
        raise UsageError("--reference is needed to score this model: a folder or archive of real images by class")
    if source == "digits":
        return digits_for(model, "held-out")
    images = open_images(source, model.classes, image_size=model.image_size, flag="--reference").decodable()
    tell_skipped(images)
    return images


def trained_on_digits(provenance: dict[str, Any]) -> bool:
    """Whether a model, or the model that it was erased from, was pre-trained on the embedded digits."""
    while "original" in provenance:
        provenance = provenance["original"]
    return provenance.get("data") == "digits"
