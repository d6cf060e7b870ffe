"""From an image folder to a model folder: classifier, VAE, latents, DiT, each stage kept as soon as it is done."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ..classifier import load_classifier, save_classifier
from ..digits.data import NAMES, digit_images
from ..errors import UsageError
from ..files import read_json, write_json
from ..images import ImageSet, open_images
from ..latents import encode_images
from ..model import DiT, load, save
from ..sources import tell_skipped
from .classifier import train_classifier
from .recipe import Recipe
from .transformer import build_dit, train_transformer
from .vae import train_vae

HALF = torch.float16  # weights are stored in half precision and used in single precision


def open_training_images(source: str, recipe: Recipe) -> tuple[ImageSet, list[str]]:
    """Training images and the names of their classes: the embedded digits, or a folder or archive by class."""
    if source == "digits":
        return digit_images("train"), list(NAMES)
    images = open_images(source, None, image_size=recipe.image_size)
    return images, list(images.class_names.labels)


def pretrain(
    source: str,
    output_dir: Path,
    *,
    recipe: Recipe,
    without: Sequence[str] = (),
    parts_of: DiT | None = None,
    progress: bool = False,
) -> DiT:
    """Train a model and write it as a diffusers folder with its classifier; the same call resumes or returns it.

    ``without`` leaves classes out of the DiT's training; ``parts_of`` reuses the VAE and classifier of another model,
    so that scores of the two compare. Raises ``UsageError`` when the folder holds another recipe's work.
    """
    images, names = open_training_images(source, recipe)
    left_out = [names.index(name) for name in check_names(without, names)]
    provenance = {
        "made by": "erase pretrain",
        "data": source,
        "data key": images.key,
        "without": [names[index] for index in left_out],
        "recipe": dataclasses.asdict(recipe),
    }
    if (output_dir / "model_index.json").exists():
        return reopened(output_dir, provenance)
    work_dir = claim(output_dir.with_name(output_dir.name + ".partial"), provenance)

    # The parts that scores depend on come first and may be shared.
    classifier_dir, vae = make_parts(images, len(names), recipe, work_dir, parts_of=parts_of, progress=progress)

    model = build_dit(vae, names, recipe)
    model.classifier_dir, model.provenance = classifier_dir, provenance
    latents = encode_images(model, images, cache_dir=None, flip=False, progress="encoding" if progress else "")
    tell_skipped(latents.skipped)
    latents = latents.of_classes([index for index in range(len(names)) if index not in left_out])
    train_transformer(model, latents, recipe, checkpoint_path=work_dir / "transformer.checkpoint", progress=progress)
    save(model, output_dir, dtype=HALF)
    shutil.rmtree(work_dir)
    return load(output_dir)


def make_parts(
    images: ImageSet, num_classes: int, recipe: Recipe, work_dir: Path, *, parts_of: DiT | None, progress: bool
) -> tuple[Path, AutoencoderKL]:
    """Classifier folder and VAE: trained, or those of another model."""
    if parts_of is not None:
        return parts_of.classifier_dir, parts_of.vae
    classifier_dir = stage_classifier(images, num_classes, recipe, work_dir, progress=progress)
    return classifier_dir, stage_vae(images, recipe, work_dir, progress=progress)


def check_names(without: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """The names, if all are classes (``UsageError``)."""
    for name in without:
        if name not in names:
            raise UsageError(f"--without {name} is not one of {', '.join(names)}")
    return without


def reopened(output_dir: Path, provenance: dict[str, Any]) -> DiT:
    """The finished model, if it was made by the same recipe (``UsageError``)."""
    model = load(output_dir)
    if {key: model.provenance.get(key) for key in provenance} != as_json(provenance):
        raise UsageError(f"--output {output_dir} holds a model of another recipe; name another folder")
    return model


def claim(work_dir: Path, provenance: dict[str, Any]) -> Path:
    """The folder of unfinished stages, if it belongs to the same recipe (``UsageError``)."""
    record = work_dir / "provenance.json"
    if record.exists() and read_json(record) != as_json(provenance):
        raise UsageError(f"{work_dir} holds the unfinished work of another recipe; remove it or name another --output")
    work_dir.mkdir(parents=True, exist_ok=True)
    write_json(provenance, record)
    return work_dir


def as_json(value: Any) -> Any:
    """The value as JSON reads it back (tuples become lists)."""
    import json

    return json.loads(json.dumps(value))


def stage_classifier(images: ImageSet, num_classes: int, recipe: Recipe, work_dir: Path, *, progress: bool) -> Path:
    """The folder of the trained classifier."""
    folder = work_dir / "classifier"
    if not (folder / "config.json").exists():
        checkpoint = work_dir / "classifier.checkpoint"
        classifier = train_classifier(images, num_classes, recipe, checkpoint_path=checkpoint, progress=progress)
        save_classifier(classifier, folder, dtype=HALF)
    load_classifier(folder)
    return folder


def stage_vae(images: ImageSet, recipe: Recipe, work_dir: Path, *, progress: bool) -> AutoencoderKL:
    """The trained VAE, rounded to the precision in which it is stored."""
    folder = work_dir / "vae"
    if not (folder / "config.json").exists():
        vae = train_vae(images, recipe, checkpoint_path=work_dir / "vae.checkpoint", progress=progress)
        vae.to(HALF).save_pretrained(folder.with_name("vae.tmp"))
        folder.with_name("vae.tmp").replace(folder)
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval().requires_grad_(False)
