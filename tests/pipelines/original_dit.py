"""The original DiT forward pass, written from the paper (arXiv 2212.09748) on a dictionary of weights.

Independent of diffusers and of our loader: the reference that loaded checkpoints are held against.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def random_state(
    *, width: int, depth: int, num_classes: int, grid: int, patch_size: int = 2, seed: int = 0, dtype=torch.float32
) -> State:
    """Random weights everywhere under the original names, so that no zero hides a mistake."""
    draws = torch.Generator().manual_seed(seed)
    shapes = {
        "x_embedder.proj.weight": (width, 4, patch_size, patch_size),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (num_classes + 1, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
        "final_layer.linear.weight": (8 * patch_size**2, width),
        "final_layer.linear.bias": (8 * patch_size**2,),
    }
    for index in range(depth):
        block = f"blocks.{index}"
        for name, rows, columns in (
            ("adaLN_modulation.1", 6 * width, width),
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes[f"{block}.{name}.weight"], shapes[f"{block}.{name}.bias"] = (rows, columns), (rows,)
    state = {
        name: torch.randn(shape, generator=draws, dtype=dtype) / math.sqrt(shape[-1]) * (1.0 if len(shape) > 1 else 0.3)
        for name, shape in shapes.items()
    }
    return {"pos_embed": position_table(width, grid).to(dtype)[None], **state}


def position_table(width: int, grid: int) -> Tensor:
    """Two-dimensional sine-cosine positions (grid^2, width): column first, as MAE's."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    return torch.cat([waves(columns.flatten(), width // 2), waves(rows.flatten(), width // 2)], dim=1).float()


def waves(positions: Tensor, width: int) -> Tensor:
    """Sines, then cosines, at frequencies 10000^(-2i/width)."""
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def forward(state: State, x: Tensor, timesteps: Tensor, class_labels: Tensor, *, heads: int) -> Tensor:
    """Noise and variance prediction (B, 8, H, W) of noisy latents (B, 4, H, W)."""
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    patch = state["x_embedder.proj.weight"].shape[-1]
    tokens = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=patch)
    batch, _, grid, _ = tokens.shape
    tokens = tokens.flatten(2).transpose(1, 2) + state["pos_embed"]

    # Conditioning: cosines before sines, frequencies 10000^(-i/128).
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128).to(x)
    angles = timesteps[:, None].to(x) * frequencies
    condition = linear(state, "t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    condition = linear(state, "t_embedder.mlp.2", F.silu(condition))
    condition = condition + state["y_embedder.embedding_table.weight"][class_labels]

    for index in range(depth):
        block = f"blocks.{index}"
        parts = linear(state, f"{block}.adaLN_modulation.1", F.silu(condition)).chunk(6, dim=1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (part[:, None] for part in parts)
        tokens = tokens + gate * attention(state, f"{block}.attn", norm(tokens) * (1 + scale) + shift, heads=heads)
        hidden = F.gelu(
            linear(state, f"{block}.mlp.fc1", norm(tokens) * (1 + mlp_scale) + mlp_shift), approximate="tanh"
        )
        tokens = tokens + mlp_gate * linear(state, f"{block}.mlp.fc2", hidden)

    shift, scale = linear(state, "final_layer.adaLN_modulation.1", F.silu(condition)).chunk(2, dim=1)
    tokens = linear(state, "final_layer.linear", norm(tokens) * (1 + scale[:, None]) + shift[:, None])
    patches = tokens.view(batch, grid, grid, patch, patch, 8)
    return torch.einsum("nhwpqc->nchpwq", patches).reshape(batch, 8, grid * patch, grid * patch)


def norm(tokens: Tensor) -> Tensor:
    """Layer norm without weights."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """One linear layer by name."""
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def attention(state: State, name: str, x: Tensor, *, heads: int) -> Tensor:
    """Multi-head self-attention with a fused projection."""
    batch, count, width = x.shape
    query, key, value = (
        linear(state, f"{name}.qkv", x).view(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    )
    weights = (query @ key.transpose(-1, -2) / math.sqrt(width // heads)).softmax(dim=-1)
    return linear(state, f"{name}.proj", (weights @ value).transpose(1, 2).reshape(batch, count, width))
