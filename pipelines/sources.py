"""Where training data come from: the embedded digits, images on disk, or the model's own samples."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .digits.data import digit_images
from .errors import MissingError, UsageError
from .hub_dataset import check_hub_dataset, is_hub_dataset
from .image_set import Skipped
from .images import ImageSet, open_images
from .latents import Latents, encode_images
from .model import DiT
from .model_source import EMBEDDED, read_provenance
from .provenance import base_of
from .ranks import is_first
from .replay import Replay, replay_latents

REPLAY = "replay"


def default_source(model: str) -> str:
    """The data that a model is erased on when none are named: the digits for a model made of them, else replay."""
    return "digits" if trained_on_digits(read_provenance(model)) else REPLAY


def check_source(source: str) -> None:
    """Refuse a data source that is not there or cannot be read here, before anything is loaded (``MissingError``)."""
    if source not in (REPLAY, *EMBEDDED) and not Path(source).exists():
        raise MissingError(f"--data {source} does not exist; give a folder, a zip, {', '.join(EMBEDDED)} or {REPLAY}")
    if is_hub_dataset(Path(source)):
        check_hub_dataset(Path(source), flag="--data")


def open_source(
    source: str,
    model: DiT,
    *,
    classes: Sequence[int] = (),
    without: Sequence[int] = (),
    num_images: int = 0,
    seed: int = 0,
) -> ImageSet:
    """The images of a source that is not replay; a file that begins as an image may still prove damaged.

    ``classes`` takes those of some classes alone, ``without`` leaves classes out, ``num_images`` takes a random sample
    balanced over the classes.
    """
    if source == "digits":
        images = digits_for(model, "train")
    else:
        images = open_images(source, model.classes, image_size=model.image_size)
    if classes:
        images = images.of_classes(classes)
    if without:
        images = images.without_classes(without)
    if num_images:
        images = images.balanced(num_images, seed=seed)
    return images


def tell_skipped(skipped: Sequence[Skipped]) -> None:
    """Count and name on stderr the files that were left out."""
    if skipped and is_first():
        first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        print(f"left out {len(skipped)} of the files found: {first}{more}", file=sys.stderr)


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
    replay: Replay,
    seed: int,
    cache_dir: Path | None,
    progress: bool,
    classes: Sequence[int] = (),
    without: Sequence[int] = (),
    num_images: int = 0,
) -> Latents:
    """Latents from a source, encoded or sampled once and kept in the cache.

    ``classes``, ``without`` and ``num_images`` choose among images as ``open_source`` does; replay is of every class
    but those of ``without``.
    """
    if source == REPLAY:
        latents = replay_latents(model, replay, seed=seed, cache_dir=cache_dir, progress=progress)
        return latents.of_classes(list(classes)) if classes else latents
    flip = source != "digits"  # a mirrored digit is another sign

    # A whole source is encoded with every class, so that the cache serves other erasures too.
    left_out = without if num_images else ()
    images = open_source(source, model, classes=classes, without=left_out, num_images=num_images, seed=seed)
    latents = encode_images(model, images, cache_dir=cache_dir, flip=flip, progress="encoding" if progress else "")
    if progress:
        tell_skipped((*images.skipped, *latents.skipped))
    return latents.without_classes(list(without)) if without else latents


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
    tell_skipped(images.skipped)
    return images


def trained_on_digits(provenance: Mapping[str, Any]) -> bool:
    """Whether a model, or the model that it was erased from, was pre-trained on the embedded digits."""
    return base_of(provenance).get("data") == "digits"
