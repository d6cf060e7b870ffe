"""What a set of images with class labels is, whatever it is read from; and one in memory."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .classes import ClassNames
from .errors import MissingError, UsageError
from .randomness import generator
from .tensor_file import bits

MAX_THREADS = 16
LARGEST_CHUNK = 256

Skipped = tuple[str, str]  # (file, or folder with a slash at its end; reason)
Result = TypeVar("Result")


class Decoded(NamedTuple):
    """One image, or the reason why there is none."""

    pixels: Tensor | None  # uint8 (3, S, S)
    reason: str | None


class ReadableBatch(NamedTuple):
    """The readable images of a batch."""

    pixels: Tensor  # uint8 (K, 3, S, S)
    indices: Tensor  # (K,), which of the requested indices they are
    skipped: list[Skipped]


class ImageSet(ABC):
    """Images with class labels; ``len`` of them, in an order that depends on names alone."""

    labels: Tensor  # int64 (N,)
    class_names: ClassNames
    image_size: int
    skipped: tuple[Skipped, ...]  # (file, reason) of everything that was found and left out

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        classes = len(self.labels.unique())
        return f"{type(self).__name__}({len(self)} images of {classes} classes, {self.image_size} px, key {self.key})"

    @property
    @abstractmethod
    def key(self) -> str:
        """Fingerprint of the content, for caches."""

    @abstractmethod
    def describe(self, index: int) -> str:
        """Where an image comes from."""

    @abstractmethod
    def decode(self, index: int) -> Decoded:
        """One image, cropped; never raises for a damaged file. Safe to call from several threads."""

    @abstractmethod
    def subset(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """The images at ``indices``, in that order."""

    def read(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Pixels uint8 (B, 3, S, S); ``MissingError`` names the first file that cannot be decoded."""
        batch = self.read_available(indices)
        if batch.skipped:
            raise MissingError("image {} cannot be decoded ({}); remove or replace it".format(*batch.skipped[0]))
        return batch.pixels

    def read_available(self, indices: Tensor | Sequence[int]) -> ReadableBatch:
        """The readable images among ``indices``, and the files that are not with the reason."""
        wanted = as_indices(indices)
        decoded = in_threads(self.decode, wanted.tolist())
        kept = [place for place, image in enumerate(decoded) if image.pixels is not None]
        skipped = [
            (self.describe(index), image.reason)
            for index, image in zip(wanted.tolist(), decoded, strict=True)
            if image.reason is not None
        ]
        pixels = [image.pixels for image in decoded if image.pixels is not None]
        empty = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return ReadableBatch(torch.stack(pixels) if pixels else empty, wanted[kept], skipped)

    def decodable(self) -> "ImageSet":
        """Without the images that cannot be decoded; decodes each once."""
        return self

    def of_classes(self, classes: Iterable[int]) -> "ImageSet":
        """The images of some classes (``UsageError`` names a class without any)."""
        wanted = sorted(set(classes))
        for index in wanted:
            if not (self.labels == index).any():
                raise UsageError(f"--data holds no image of class {index} ({self.class_names[index].name})")
        return self.subset(torch.isin(self.labels, torch.tensor(wanted, dtype=torch.int64)).nonzero()[:, 0])

    def without_classes(self, classes: Iterable[int]) -> "ImageSet":
        """The images of all other classes."""
        unwanted = torch.tensor(sorted(set(classes)), dtype=torch.int64)
        return self.subset((~torch.isin(self.labels, unwanted)).nonzero()[:, 0])

    def balanced(self, num_images: int, *, seed: int) -> "ImageSet":
        """``num_images`` random images, as many of each class as there are, up to a common number; in set order.

        All images when there are no more. A larger number keeps the images of a smaller one, and which images stand for
        a class does not depend on the other classes.
        """
        if num_images < 1:
            raise UsageError(f"the number of images is {num_images}; it must be at least 1")
        return self.subset(balanced_indices(self.labels, num_images, seed=seed))


def balanced_indices(labels: Tensor, num_images: int, *, seed: int) -> Tensor:
    """Sorted indices of ``ImageSet.balanced``: one image of each class in turn, until there are enough."""
    classes, counts = labels.unique(return_counts=True)
    members = labels.argsort(stable=True).split(counts.tolist())
    turns = torch.randperm(len(classes), generator=generator(seed, "balanced", "turns")).tolist()
    ranks = torch.empty(len(labels), dtype=torch.int64)
    for index, turn, own in zip(classes.tolist(), turns, members, strict=True):
        order = torch.randperm(len(own), generator=generator(seed, "balanced", "class", index))
        ranks[own[order]] = torch.arange(len(own)) * len(classes) + turn
    return ranks.argsort()[:num_images].sort().values


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ArrayImages(ImageSet):
    """Images in memory, such as generated ones or scikit-learn's digits."""

    pixels: Tensor  # uint8 (N, 3, S, S)
    labels: Tensor
    class_names: ClassNames
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        """Hold the tensors to their types and shapes."""
        count, channels, height, width = self.pixels.shape
        if self.pixels.dtype != torch.uint8 or channels != 3 or height != width or self.labels.shape != (count,):
            raise UsageError(
                f"images must be uint8 (N, 3, S, S) with labels (N,), not {self.pixels.dtype} "
                f"{tuple(self.pixels.shape)} with {tuple(self.labels.shape)}"
            )

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.pixels.shape[-1]

    @cached_property
    def key(self) -> str:
        """Fingerprint of every pixel and label."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        for tensor in (self.pixels, self.labels.to(torch.int64)):
            digest.update(bits(tensor).numpy())
        return digest.hexdigest()[:24]

    def describe(self, index: int) -> str:
        """The image's number."""
        return f"number {index}"

    def decode(self, index: int) -> Decoded:
        """One image."""
        return Decoded(self.pixels[index], None)

    def subset(self, indices: Tensor | Sequence[int]) -> "ArrayImages":
        """The images at ``indices``, in that order."""
        chosen = as_indices(indices)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen])


def as_indices(indices: Tensor | Sequence[int]) -> Tensor:
    """Indices as int64; a boolean mask would be read as zeros and ones and is refused (``TypeError``)."""
    tensor = torch.as_tensor(indices)
    if tensor.dtype == torch.bool:
        raise TypeError("indices must be integers, not a boolean mask")
    return tensor.to(torch.int64)


def in_threads(function: Callable[[int], Result], indices: Sequence[int]) -> list[Result]:
    """``function`` of every index, in order; decoding and reading let other threads run."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    size = max(1, min(LARGEST_CHUNK, len(indices) // (4 * threads)))
    chunks = [indices[start : start + size] for start in range(0, len(indices), size)]
    with ThreadPoolExecutor(threads) as pool:
        return list(chain.from_iterable(pool.map(lambda chunk: [function(index) for index in chunk], chunks)))
