"""Image files with class labels: an image folder, or a zip or tar of one, cropped to the model's size."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from .archives import ACCEPTED, READ_ERRORS, Store, open_store
from .classes import ClassNames
from .decoding import HEADER_BYTES, UnreadableImage, decode_image, has_image_header
from .errors import MissingError, UsageError
from .folders import find_images
from .image_set import ArrayImages, Decoded, ImageSet, Skipped, as_indices, in_threads

__all__ = ["ArrayImages", "FileImages", "ImageSet", "open_images"]

Verification = Literal["names", "headers", "decoding"]
KEY_FILES, KEY_BYTES = 256, 65536  # what of the content goes into the key


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FileImages(ImageSet):
    """Image files of a folder or an archive."""

    store: Store
    root: str  # folder of the store that holds the class folders
    files: tuple[str, ...]
    sizes: tuple[int, ...]  # bytes
    labels: Tensor
    class_names: ClassNames
    image_size: int
    skipped: tuple[Skipped, ...]

    @cached_property
    def key(self) -> str:
        """Fingerprint of the content.

        Covers, in order, every file's name below the class folders' parent, its size and its label, and the first
        64 KiB of 256 files spread evenly over the set (of all files when there are no more). The same images in a
        folder, a zip or a tar, anywhere, have one key. It does not cover modification times, the image size, or an
        edit that keeps the size of a file that is not among the 256.
        """
        names = (name[len(self.root) :].lstrip("/") for name in self.files)
        rows = zip(names, self.sizes, self.labels.tolist(), strict=True)
        digest = hashlib.sha256(json.dumps(list(rows)).encode())
        for place in range(min(KEY_FILES, len(self))):
            digest.update(self._start(place * len(self) // min(KEY_FILES, len(self)), limit=KEY_BYTES))
        return digest.hexdigest()[:24]

    def describe(self, index: int) -> str:
        """Path of the file."""
        return f"{self.store.path}/{self.files[index]}"

    def decode(self, index: int) -> Decoded:
        """One image, or why its file cannot be decoded."""
        try:
            return Decoded(decode_image(self.store.read(self.files[index]), image_size=self.image_size), None)
        except UnreadableImage as error:
            return Decoded(None, str(error))
        except READ_ERRORS as error:
            return Decoded(None, f"cannot be read: {error}")

    def subset(self, indices: Tensor | Sequence[int]) -> "FileImages":
        """The images at ``indices``, in that order."""
        chosen = as_indices(indices)
        places = chosen.tolist()
        files, sizes = tuple(self.files[place] for place in places), tuple(self.sizes[place] for place in places)
        return replace(self, files=files, sizes=sizes, labels=self.labels[chosen])

    def with_headers(self) -> "FileImages":
        """Without the files that do not begin as an image; reads 16 bytes of each."""
        starts = in_threads(lambda index: self._start(index, limit=HEADER_BYTES), range(len(self)))
        wrong = {index: start for index, start in enumerate(starts) if not has_image_header(start)}
        return self._without({index: "not an image" if start else "cannot be read" for index, start in wrong.items()})

    def decodable(self) -> "FileImages":
        """Without the files that cannot be decoded; decodes each once."""
        reasons = in_threads(lambda index: self.decode(index).reason, range(len(self)))
        return self._without({index: reason for index, reason in enumerate(reasons) if reason is not None})

    def _without(self, reasons: dict[int, str]) -> "FileImages":
        """Move some files from the set to ``skipped``."""
        if not reasons:
            return self
        skipped = [(self.files[index], reason) for index, reason in reasons.items()]
        kept = self.subset([index for index in range(len(self)) if index not in reasons])
        return replace(kept, skipped=(*self.skipped, *skipped))

    def _start(self, index: int, *, limit: int) -> bytes:
        """The first bytes of a file, none when it cannot be read."""
        try:
            return self.store.read(self.files[index], limit=limit)
        except READ_ERRORS:
            return b""


def open_images(
    source: str | Path,
    class_names: ClassNames | None,
    *,
    image_size: int,
    verify: Verification = "headers",
    ignore_unknown: bool = False,
    flag: str = "--data",
) -> FileImages:
    """The images of a folder, zip or uncompressed tar with one folder per class, labelled by wnid or class name.

    ``train/`` is read where there is one, its sibling splits are not. Without ``class_names``, as in pre-training, the
    sorted folder names are the classes. What is not an image is listed in ``skipped``: by file name alone, by a look at
    the first bytes too, or by decoding every file once. ``ignore_unknown`` passes by folders that are no class.

    Raises ``MissingError`` when the source is absent or damaged, ``UsageError`` when it has another structure or a
    folder that is not exactly one class; ``flag`` is the option that the message names.
    """
    if image_size < 1:
        raise UsageError(f"the image size is {image_size}; it must be at least 1 pixel")
    store = open_store(source, flag=flag)
    try:
        found = find_images(store, class_names, ignore_unknown=ignore_unknown, flag=flag)
    except OSError as error:
        raise MissingError(f"{flag} {source} cannot be listed: {error}") from error
    images = FileImages(
        store=store,
        root=found.root,
        files=tuple(found.files),
        sizes=tuple(found.sizes),
        labels=torch.tensor(found.labels, dtype=torch.int64),
        class_names=found.class_names,
        image_size=image_size,
        skipped=tuple(found.skipped),
    )
    images = verified(images, verify)
    if not len(images):
        file, reason = images.skipped[-1]
        raise UsageError(f"{flag} {source} holds no readable image ({file}: {reason}); give {ACCEPTED}")
    return images


def verified(images: FileImages, verify: Verification) -> FileImages:
    """The images that pass a verification."""
    if verify not in get_args(Verification):
        raise UsageError(f"verify is {verify!r}; it must be one of {', '.join(get_args(Verification))}")
    if verify == "names":
        return images
    return images.with_headers().decodable() if verify == "decoding" else images.with_headers()
