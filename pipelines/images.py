"""Images with class labels, cropped to the model's size: a folder, a zip or tar of one, a Hugging Face data set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .archives import ACCEPTED, Store, open_store
from .classes import ClassNames
from .encoded_images import EncodedImages
from .errors import MissingError, UsageError
from .folders import find_images
from .hub_dataset import is_hub_dataset, open_hub_images
from .image_set import ArrayImages, ImageSet, Skipped, as_indices

__all__ = ["ArrayImages", "FileImages", "ImageSet", "open_images"]

Verification = Literal["names", "headers", "decoding"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FileImages(EncodedImages):
    """Image files of a folder or an archive."""

    store: Store
    root: str  # folder of the store that holds the class folders
    files: tuple[str, ...]
    sizes: tuple[int, ...]  # bytes
    labels: Tensor
    class_names: ClassNames
    image_size: int
    skipped: tuple[Skipped, ...]

    def name(self, index: int) -> str:
        """Path of the file within the source."""
        return self.files[index]

    def describe(self, index: int) -> str:
        """Path of the file."""
        return f"{self.store.path}/{self.files[index]}"

    def read_bytes(self, index: int, *, limit: int = -1) -> bytes:
        """What is in the file."""
        return self.store.read(self.files[index], limit=limit)

    def listing(self) -> Sequence[Any]:
        """Name below the class folders' parent, size and label of each file.

        The same images in a folder, a zip or a tar, anywhere, have one key; modification times play no part.
        """
        names = (name[len(self.root) :].lstrip("/") for name in self.files)
        return list(zip(names, self.sizes, self.labels.tolist(), strict=True))

    def subset(self, indices: Tensor | Sequence[int]) -> "FileImages":
        """The images at ``indices``, in that order."""
        chosen = as_indices(indices)
        places = chosen.tolist()
        files, sizes = tuple(self.files[place] for place in places), tuple(self.sizes[place] for place in places)
        return replace(self, files=files, sizes=sizes, labels=self.labels[chosen])


def open_images(
    source: str | Path,
    class_names: ClassNames | None,
    *,
    image_size: int,
    verify: Verification = "headers",
    ignore_unknown: bool = False,
    flag: str = "--data",
) -> EncodedImages:
    """The images of a folder, zip or uncompressed tar with one folder per class, labelled by wnid or class name.

    ``train/`` is read where there is one, its sibling splits are not. Without ``class_names``, as in pre-training, the
    sorted folder names are the classes. What is not an image is listed in ``skipped``: by file name alone, by a look at
    the first bytes too, or by decoding every file once. ``ignore_unknown`` passes by folders that are no class. A
    Hugging Face data set on disk is read alike, the names of its class labels in the place of folder names.

    Raises ``MissingError`` when the source is absent or damaged, ``UsageError`` when it has another structure or a
    folder that is not exactly one class; ``flag`` is the option that the message names.
    """
    if image_size < 1:
        raise UsageError(f"the image size is {image_size}; it must be at least 1 pixel")
    shared = {"image_size": image_size, "ignore_unknown": ignore_unknown, "flag": flag}
    opened = open_hub_images if is_hub_dataset(Path(source)) else open_files
    images = verified(opened(source, class_names, **shared), verify)
    if not len(images):
        file, reason = images.skipped[-1]
        raise UsageError(f"{flag} {source} holds no readable image ({file}: {reason}); give {ACCEPTED}")
    return images


def open_files(
    source: str | Path, class_names: ClassNames | None, *, image_size: int, ignore_unknown: bool, flag: str
) -> FileImages:
    """The image files of a folder or an archive, judged by their names alone; raises as ``open_images`` does."""
    store = open_store(source, flag=flag)
    try:
        found = find_images(store, class_names, ignore_unknown=ignore_unknown, flag=flag)
    except OSError as error:
        raise MissingError(f"{flag} {source} cannot be listed: {error}") from error
    return FileImages(
        store=store,
        root=found.root,
        files=tuple(found.files),
        sizes=tuple(found.sizes),
        labels=torch.tensor(found.labels, dtype=torch.int64),
        class_names=found.class_names,
        image_size=image_size,
        skipped=tuple(found.skipped),
    )


def verified(images: EncodedImages, verify: Verification) -> EncodedImages:
    """The images that pass a verification."""
    if verify not in get_args(Verification):
        raise UsageError(f"verify is {verify!r}; it must be one of {', '.join(get_args(Verification))}")
    if verify == "names":
        return images
    return images.with_headers().decodable() if verify == "decoding" else images.with_headers()
