"""What an erasure changed in the weights, and putting it back onto the base bit for bit.

A delta is reversible by whoever holds the base: it names every weight that moved. It saves room, it hides nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import MissingError, UsageError
from .tensor_file import bits, load_tensors, save_tensors, tensors_sha256

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

KIND = "dit-erase delta 1"
SPARSE = 1 / 3  # share of changed weights below which places and values are smaller than the whole tensor


@dataclass(frozen=True, kw_only=True)
class Delta:
    """New values of what changed: whole tensors, or places in the flattened tensor and the values there."""

    tensors: dict[str, Tensor]  # "NAME" whole, or "NAME@places" (n,) int32 and "NAME@values" (n,)
    base_sha256: str  # of the weights that it applies to
    result_sha256: str  # of the weights that it gives
    about: dict[str, Any]  # base, erased classes and configuration, as plain JSON


def weights_sha256(transformer: "DiTTransformer2DModel") -> str:
    """A digest of all weights by plain name, each embedder once; device and file format play no part."""
    return tensors_sha256(dict(transformer.named_parameters()))


def difference(base: "DiTTransformer2DModel", changed: "DiTTransformer2DModel", *, about: dict[str, Any]) -> Delta:
    """The delta between two models of one shape (``UsageError`` for unlike ones)."""
    before, after = dict(base.named_parameters()), dict(changed.named_parameters())
    if {name: each.shape for name, each in before.items()} != {name: each.shape for name, each in after.items()}:
        raise UsageError("a delta needs two models of the same shape")
    tensors = {}
    for name, old in before.items():
        new = after[name].detach().cpu()
        width = new.element_size()
        moved = (bits(old) != bits(new)).view(-1, width).any(dim=1)
        places = moved.nonzero()[:, 0]
        if len(places) > SPARSE * new.numel():
            tensors[name] = new.contiguous()
        elif len(places):
            tensors[f"{name}@places"] = places.to(torch.int32)
            tensors[f"{name}@values"] = new.flatten()[places].contiguous()
    return Delta(tensors=tensors, base_sha256=weights_sha256(base), result_sha256=weights_sha256(changed), about=about)


@torch.no_grad()
def apply_delta(transformer: "DiTTransformer2DModel", delta: Delta) -> None:
    """Put a delta onto its base, in place; ``UsageError`` for another base."""
    if weights_sha256(transformer) != delta.base_sha256:
        raise UsageError(
            f"the delta was made from another base ({delta.about.get('base', 'unnamed')}): the weights have another "
            "sha256"
        )
    parameters = dict(transformer.named_parameters())
    for name, tensor in delta.tensors.items():
        stem, _, part = name.partition("@")
        if part == "":
            parameters[stem].copy_(tensor)
        elif part == "values":
            places = delta.tensors[f"{stem}@places"].long()
            parameters[stem].view(-1)[places.to(parameters[stem].device)] = tensor.to(parameters[stem].device)
    if weights_sha256(transformer) != delta.result_sha256:
        raise MissingError("the delta is damaged: the rebuilt weights have another sha256 than those it was made of")


def save_delta(delta: Delta, path: Path) -> None:
    """Write a delta as one safetensors file."""
    facts = {"base_sha256": delta.base_sha256, "result_sha256": delta.result_sha256, "about": delta.about}
    save_tensors(path, delta.tensors, kind=KIND, metadata=facts)


def load_delta(path: Path) -> Delta:
    """Read a delta (``MissingError`` unless the file is a whole one)."""
    tensors, facts = load_tensors(path, kind=KIND)
    return Delta(tensors=tensors, **facts)
