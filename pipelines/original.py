"""Checkpoints of the original DiT code (arXiv 2212.09748): reading them safely, and names in both directions.

They come as a flat dictionary, below ``ema`` or ``model``, with or without a ``module.`` prefix, beside optimizer
states and an ``argparse.Namespace``. Nothing but tensors, plain containers and such a namespace is unpickled.
"""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .companion import companion_path, read_companion
from .errors import MissingError, UsageError
from .files import check_safetensors

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of DiT-S, B, L and XL by width: weights alone do not tell
TOKENS = 256  # of the published 256-pixel models, for a checkpoint without its position table
NORM_EPS = 1e-6  # diffusers' own DiT folders say 1e-5 for one of the norms

# Original name to diffusers' name outside the blocks, where the two differ.
OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
# The same inside a block.
INSIDE = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
# The embedder of the original is that of every block in diffusers.
EMBEDDER = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
QKV = ("to_q", "to_k", "to_v")
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def read_original(path: Path) -> dict[str, Tensor]:
    """The weights of an original checkpoint by their original names, the averaged ones where there are two sets.

    Tensors stay on disk until they are used. Raises ``MissingError`` for a file that is absent, damaged or that holds
    more than weights, ``UsageError`` for one that is no DiT.
    """
    if not path.exists():
        raise MissingError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        check_safetensors(path)
        state = load_file(path)
    else:
        state = unpickle(path)
    for part in ("ema", "model"):
        if isinstance(state.get(part), Mapping):
            state = state[part]
            break
    state = {name.removeprefix("module."): each for name, each in state.items() if isinstance(each, Tensor)}
    for name in ("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight",
                 "blocks.0.attn.qkv.weight"):  # fmt: skip
        if name not in state:
            raise UsageError(f"{path} is no checkpoint of the original DiT code: it has no {name}")
    return state


def unpickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of weights; ``MissingError`` for anything that is not one."""
    try:
        state = torch_load(path)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "it is no pickle of weights")
        raise MissingError(f"{path} holds more than weights and was not loaded: {reason.strip()}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise MissingError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(state, Mapping):
        raise MissingError(f"{path} holds a {type(state).__name__}, not a dictionary of weights")
    return dict(state)


def torch_load(path: Path) -> Any:
    """``torch.load`` of weights and a namespace, mapped from the disk where the format allows."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file in torch's format before 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def depth_of(state: Mapping[str, Tensor]) -> int:
    """Number of transformer blocks."""
    return 1 + max(int(found[1]) for found in map(BLOCK.fullmatch, state) if found)


def original_config(path: Path) -> dict[str, Any]:
    """The configuration of diffusers' transformer for an original checkpoint, from the shapes of its weights.

    Raises what ``read_original`` raises, and ``UsageError`` for a width whose number of heads nothing tells.
    """
    state = read_original(path)
    patch, labels = state["x_embedder.proj.weight"], state["y_embedder.embedding_table.weight"]
    width, in_channels, patch_size, _ = patch.shape
    tokens = state["pos_embed"].shape[1] if "pos_embed" in state else TOKENS
    heads = read_companion(path).get("num_attention_heads") or HEADS.get(width)
    if heads is None:
        raise UsageError(
            f"{path} has width {width}, whose number of attention heads is not known: write "
            f'{{"num_attention_heads": ...}} to {companion_path(path).name} beside it'
        )
    return {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": in_channels,
        "out_channels": state["final_layer.linear.weight"].shape[0] // patch_size**2,
        "num_layers": depth_of(state),
        "sample_size": round(tokens**0.5) * patch_size,
        "patch_size": patch_size,
        "num_embeds_ada_norm": len(labels) - 1,
        "norm_eps": NORM_EPS,
    }


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under diffusers' names; every block gets a view of the one embedder. Position tables are left out."""
    converted = {}
    for name, tensor in state.items():
        if name == "pos_embed":
            continue
        stem, _, kind = name.rpartition(".")
        if stem in EMBEDDER:
            for index in range(depth_of(state)):
                converted[f"transformer_blocks.{index}.norm1.emb.{EMBEDDER[stem]}.{kind}"] = tensor
        elif (found := BLOCK.fullmatch(name)) and found[2] == "attn.qkv":
            for part, chunk in zip(QKV, tensor.chunk(3), strict=True):
                converted[f"transformer_blocks.{found[1]}.attn1.{part}.{kind}"] = chunk
        elif found:
            converted[f"transformer_blocks.{found[1]}.{INSIDE.get(found[2], found[2])}.{kind}"] = tensor
        else:
            converted[f"{OUTSIDE.get(stem, stem)}.{kind}"] = tensor
    return converted


def to_original(transformer: "DiTTransformer2DModel") -> dict[str, Tensor]:
    """Weights of a tied transformer under the original names, with its position table: what the original code loads."""
    state = transformer.state_dict()
    converted = {"pos_embed": transformer.pos_embed.pos_embed.detach().clone()}
    for ours, theirs in {theirs: ours for ours, theirs in OUTSIDE.items()}.items():
        for kind in ("weight", "bias"):
            converted[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    for theirs, ours in EMBEDDER.items():
        for name in (f"{theirs}.weight", f"{theirs}.bias"):
            held = f"transformer_blocks.0.norm1.emb.{ours}.{name.rpartition('.')[2]}"
            if held in state:
                converted[name] = state[held]
    for index in range(len(transformer.transformer_blocks)):
        converted.update(original_block(state, index))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in converted.items()}


def original_block(state: Mapping[str, Tensor], index: int) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of one block in the original layout."""
    for kind in ("weight", "bias"):
        parts = [state[f"transformer_blocks.{index}.attn1.{part}.{kind}"] for part in QKV]
        yield f"blocks.{index}.attn.qkv.{kind}", torch.cat(parts)
        for theirs, ours in INSIDE.items():
            yield f"blocks.{index}.{theirs}.{kind}", state[f"transformer_blocks.{index}.{ours}.{kind}"]
