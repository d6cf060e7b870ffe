"""Images to latents, encoded once: posterior mean and standard deviation on disk, keyed by data, crop and VAE."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .files import is_safetensors, replace_file
from .images import ImageSet
from .model import DiT
from .progress import bar_of
from .ranks import everywhere, in_parts, num_ranks, on_first


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Encoded images: the VAE posterior of each, in units of the diffusion (scaled)."""

    mean: Tensor  # (N, V, C, H, W); V = 2 with the flipped copy, 1 without
    std: Tensor  # (N, V, C, H, W)
    class_labels: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.class_labels)

    def subset(self, indices: Tensor) -> "Latents":
        """The images at ``indices``."""
        return Latents(mean=self.mean[indices], std=self.std[indices], class_labels=self.class_labels[indices])

    def of_classes(self, class_labels: list[int]) -> "Latents":
        """The images whose label is among ``class_labels``."""
        return self.subset(torch.isin(self.class_labels, torch.tensor(class_labels)).nonzero()[:, 0])

    def joined(self, other: "Latents") -> "Latents":
        """These images and those of another set of the same shape."""
        mean, std = torch.cat([self.mean, other.mean]), torch.cat([self.std, other.std])
        return Latents(mean=mean, std=std, class_labels=torch.cat([self.class_labels, other.class_labels]))

    def draw(self, indices: Tensor, *, generator: torch.Generator) -> Tensor:
        """One sample of the posterior (not its mode) per index, from a random one of the V copies: (B, C, H, W)."""
        copy = torch.randint(self.mean.shape[1], (len(indices),), generator=generator)
        mean, std = self.mean[indices, copy], self.std[indices, copy]
        return mean + std * torch.randn(mean.shape, generator=generator)


def encode_images(
    model: DiT, images: ImageSet, *, cache_dir: Path | None, flip: bool, batch_size: int = 64, progress: str = ""
) -> Latents:
    """Latents of an image set, from the cache when they are there; unreadable images are left out by the set."""
    path = None
    if cache_dir is not None:
        path = cache_dir / f"latents-{cache_key(model, images, flip=flip)}.safetensors"
        kept = stored(path)
        if everywhere(kept is not None):
            return kept

    def encode(chunk: Tensor) -> Tensor:
        pixels = images.read(chunk)
        views = [pixels, pixels.flip(-1)] if flip else [pixels]
        return torch.stack([torch.stack(model.encode(view)).cpu() for view in views], dim=2).transpose(0, 1)

    encoded = []  # mean and std, each (B, V, C, H, W)
    indices = torch.arange(len(images))
    with bar_of(len(images), progress, unit="image", shown=bool(progress)) as bar:
        for chunk in indices.split(batch_size * num_ranks()):
            encoded.append(in_parts(encode, chunk))
            bar.update(len(chunk))
    mean, std = torch.cat(encoded).unbind(dim=1)
    latents = Latents(mean=mean, std=std, class_labels=images.labels.clone())
    if path is not None:
        on_first(lambda: store(latents, path))
    return latents


def cache_key(model: DiT, images: ImageSet, *, flip: bool) -> str:
    """Twelve hex digits for the content of the data, its size, the flip, and the VAE's weights and scale."""
    scale = model.vae.config.scaling_factor
    digest = hashlib.sha256(json.dumps([images.key, model.image_size, flip, scale]).encode())
    for name, tensor in sorted(model.vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def stored(path: Path) -> Latents | None:
    """Latents of an earlier ``store``; None when there are none or the file is damaged, so that it is made again."""
    return Latents(**load_file(path)) if is_safetensors(path) else None


def store(latents: Latents, path: Path) -> None:
    """Write latents to their final name in one rename."""
    with replace_file(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in vars(latents).items()}, temporary)
