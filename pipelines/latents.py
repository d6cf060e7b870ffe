"""Images to latents, encoded once: posterior mean and standard deviation, kept in parts and mapped from their files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import MissingError, UsageError
from .image_set import Skipped
from .images import ImageSet
from .model import DiT
from .progress import bar_of
from .ranks import gathered, num_ranks, rank
from .tensor_file import bits, load_tensors, save_tensors, tensors_sha256

KIND = "dit-erase latents 1"
PART_IMAGES = 256  # images in a file of the cache: what a kill can cost


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some encoded images, in memory or mapped from a file."""

    mean: Tensor  # (n, V, C, H, W); V = 2 with the flipped copy, 1 without
    std: Tensor  # (n, V, C, H, W)
    class_labels: Tensor  # (n,)
    sha256: str  # of the three
    skipped: tuple[Skipped, ...] = ()  # images without latents, and why

    def __len__(self) -> int:
        return len(self.class_labels)


def new_part(mean: Tensor, std: Tensor, class_labels: Tensor, *, skipped: Sequence[Skipped] = ()) -> Part:
    """A part in memory."""
    tensors = {"mean": mean, "std": std, "class_labels": class_labels}
    return Part(**tensors, sha256=tensors_sha256(tensors), skipped=tuple(skipped))


@dataclass(frozen=True, eq=False)
class Latents:
    """Encoded images: the VAE posterior of each, in units of the diffusion (scaled).

    They may be more than memory holds: ``draw`` reads the images that it draws, choosing some of them reads none.
    """

    parts: tuple[Part, ...]
    rows: Tensor  # (N,) where each image is in the parts one after another

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Latents":
        """All images of some parts."""
        return cls(tuple(parts), torch.arange(sum(map(len, parts))))

    @classmethod
    def in_memory(cls, *, mean: Tensor, std: Tensor, class_labels: Tensor) -> "Latents":
        """Latents from ``mean`` and ``std`` (N, V, C, H, W) and ``class_labels`` (N,)."""
        return cls.of([new_part(mean, std, class_labels)])

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def class_labels(self) -> Tensor:
        """The label (N,) of each image."""
        return torch.cat([part.class_labels for part in self.parts])[self.rows]

    @property
    def mean(self) -> Tensor:
        """Posterior means (N, V, C, H, W), all of them read into memory."""
        return self._read("mean", self.rows)

    @property
    def std(self) -> Tensor:
        """Posterior standard deviations (N, V, C, H, W), all of them read into memory."""
        return self._read("std", self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, V, C, H, W)."""
        return (len(self), *self.parts[0].mean.shape[1:])

    @property
    def key(self) -> str:
        """Fingerprint of the content, for caches; reads no latents."""
        digest = sha256("".join(part.sha256 for part in self.parts).encode())
        digest.update(bits(self.rows).numpy())
        return digest.hexdigest()[:24]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of the parts that could not be decoded, and why."""
        return tuple(chain.from_iterable(part.skipped for part in self.parts))

    def subset(self, indices: Tensor) -> "Latents":
        """The images at ``indices``."""
        return Latents(self.parts, self.rows[indices])

    def of_classes(self, class_labels: list[int]) -> "Latents":
        """The images whose label is among ``class_labels``."""
        return self.subset(torch.isin(self.class_labels, torch.tensor(class_labels)).nonzero()[:, 0])

    def repeated(self, count: int) -> "Latents":
        """``count`` images: these in turn, again and again."""
        return self.subset(torch.arange(count) % len(self))

    def without_classes(self, class_labels: list[int]) -> "Latents":
        """The images of all other classes."""
        return self.subset((~torch.isin(self.class_labels, torch.tensor(class_labels))).nonzero()[:, 0])

    def joined(self, other: "Latents") -> "Latents":
        """These images and those of another set of the same shape."""
        first = sum(map(len, self.parts))
        return Latents((*self.parts, *other.parts), torch.cat([self.rows, first + other.rows]))

    def draw(self, indices: Tensor, *, generator: torch.Generator) -> Tensor:
        """One sample of the posterior (not its mode) per index, from a random one of the V copies: (B, C, H, W)."""
        copy = torch.randint(self.shape[1], (len(indices),), generator=generator)
        images, rows = torch.arange(len(indices)), self.rows[indices]
        mean, std = (self._read(name, rows)[images, copy] for name in ("mean", "std"))
        return mean + std * torch.randn(mean.shape, generator=generator)

    def _read(self, name: str, rows: Tensor) -> Tensor:
        """Some rows (B, V, C, H, W) of one of the tensors; of a file on disk only the pages that they lie on."""
        first = getattr(self.parts[0], name)
        found = torch.empty(len(rows), *first.shape[1:], dtype=first.dtype)
        places = torch.bucketize(rows, self._starts, right=True) - 1
        for place in places.unique().tolist():
            here = places == place
            found[here] = getattr(self.parts[place], name)[rows[here] - self._starts[place]]
        return found

    @cached_property
    def _starts(self) -> Tensor:
        """The first row (P,) of each part."""
        return torch.tensor([0, *accumulate(map(len, self.parts))][:-1])


def encode_images(
    model: DiT, images: ImageSet, *, cache_dir: Path | None, flip: bool, batch_size: int = 64, progress: str = ""
) -> Latents:
    """Latents of an image set; images that cannot be decoded are left out and named in ``skipped``.

    The parts that are in the cache are not made again, so that a stopped encoding goes on where it was. Of several
    ranks each makes every so-many-th part, where they share the cache. Raises ``UsageError`` when no image can be
    decoded.
    """
    folder = None if cache_dir is None else cache_dir / f"latents-{cache_key(model, images, flip=flip)}"
    spans = [[start, min(start + PART_IMAGES, len(images))] for start in range(0, len(images), PART_IMAGES)]
    paths = [part_path(folder, number) for number in range(len(spans))]
    parts = [kept_part(path, asked=span) for path, span in zip(paths, spans, strict=True)]
    done = sum(stop - start for part, (start, stop) in zip(parts, spans, strict=True) if part is not None)

    shown = bool(progress) and done < len(images)
    with bar_of(len(images), progress, unit="image", shown=shown, done=done) as bar:

        def make(number: int) -> None:
            if parts[number] is None:
                part = encode_part(model, images, spans[number], flip=flip, batch_size=batch_size, tick=bar.update)
                parts[number] = keep_part(part, paths[number], asked=spans[number])

        if folder is not None and num_ranks() > 1:
            for number in range(rank(), len(spans), num_ranks()):
                make(number)
            gathered(None)  # until all have made theirs
            parts = [kept_part(path, asked=span) for path, span in zip(paths, spans, strict=True)]
        for number in range(len(spans)):
            make(number)
    latents = Latents.of(parts)
    if not len(latents):
        raise UsageError("none of the {} images can be decoded: {}: {}".format(len(images), *latents.skipped[0]))
    return latents


def encode_part(
    model: DiT, images: ImageSet, span: Sequence[int], *, flip: bool, batch_size: int, tick: Callable[[int], Any]
) -> Part:
    """The images from one index to another, encoded; ``tick`` is told of each batch."""
    empty = torch.empty(0, 1 + flip, *model.latent_shape)
    means, stds, labels, skipped = [empty], [empty], [], []
    for chunk in torch.arange(*span).split(batch_size):
        batch = images.read_available(chunk)
        if len(batch.indices):
            views = [batch.pixels, batch.pixels.flip(-1)] if flip else [batch.pixels]
            encoded = [model.encode(view) for view in views]
            means.append(torch.stack([mean.cpu() for mean, _ in encoded], dim=1))
            stds.append(torch.stack([std.cpu() for _, std in encoded], dim=1))
        labels.append(images.labels[batch.indices])
        skipped += batch.skipped
        tick(len(chunk))
    return new_part(torch.cat(means), torch.cat(stds), torch.cat(labels), skipped=skipped)


def cache_key(model: DiT, images: ImageSet, *, flip: bool) -> str:
    """Twelve hex digits for the content of the data, its size, the flip, and the VAE's weights and scale."""
    weights = tensors_sha256(model.vae.state_dict())
    facts = [images.key, model.image_size, flip, model.vae.config.scaling_factor, weights]
    return sha256(json.dumps(facts).encode()).hexdigest()[:12]


def part_path(folder: Path | None, number: int) -> Path | None:
    """Where a part of the cache is kept; nowhere without a cache."""
    return None if folder is None else folder / f"{number:05d}.safetensors"


def kept_part(path: Path | None, *, asked: Any) -> Part | None:
    """A part that was made for the same request, mapped from its file; None where none is there, or a damaged one."""
    if path is None:
        return None
    try:
        tensors, about = load_tensors(path, kind=KIND)
    except MissingError:
        return None
    skipped = tuple((name, reason) for name, reason in about["skipped"])
    return Part(**tensors, sha256=about["sha256"], skipped=skipped) if about["asked"] == asked else None


def keep_part(part: Part, path: Path | None, *, asked: Any) -> Part:
    """Write a part for ``kept_part``; returns it mapped from its file, so that memory holds one part at a time."""
    if path is None:
        return part
    tensors = {"mean": part.mean, "std": part.std, "class_labels": part.class_labels}
    save_tensors(path, tensors, kind=KIND, metadata={"asked": asked, "sha256": part.sha256, "skipped": part.skipped})
    kept = kept_part(path, asked=asked)
    assert kept is not None
    return kept
