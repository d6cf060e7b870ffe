"""What the weights know of each side: Fisher diagonals and gradient sums of the denoising loss, and masks from them.

All of it in evaluation mode, without label dropout, on L_simple.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.embedding import label_table_name
from pipelines.latents import Latents
from pipelines.randomness import generator

from .saliency import (
    Fisher,
    Mask,
    fisher_diagonal,
    include_rows,
    load_fisher,
    ratio_mask,
    save_fisher,
    summed_gradient,
    top_fraction_mask,
)
from .workspace import Workspace


def parameters_of(workspace: Workspace) -> dict[str, torch.nn.Parameter]:
    """The trainable weights by plain name; the tied embedder appears once."""
    return dict(workspace.model.transformer.named_parameters())


def simple_loss(workspace: Workspace, latents: Latents, side: str, *, batch_size: int) -> Callable[[int], Tensor]:
    """Mean L_simple of batch number i of a side, at one fixed draw of posterior sample, timestep and noise.

    The images come in one shuffled order: a folder is sorted by class, and its first thousand may all be of one.
    """
    order = torch.randperm(len(latents), generator=generator(workspace.seed, "evidence order", side))

    def loss(index: int) -> Tensor:
        first = index * batch_size
        indices = order[torch.arange(first, first + batch_size) % len(latents)]
        batch = workspace.noise(latents, indices, stream=("evidence", side, index), label_dropout=0.0)
        return workspace.denoising(batch.noised).simple.mean()

    return loss


def side_fisher(workspace: Workspace, latents: Latents, side: str, *, num_samples: int) -> Fisher:
    """Fisher diagonal of one side from ``num_samples`` single draws, with a bar on stderr."""
    loss = simple_loss(workspace, latents, side, batch_size=1)
    with tqdm(total=num_samples, desc=f"{side} Fisher", unit="sample", leave=False) as bar:
        return fisher_diagonal(parameters_of(workspace), loss, num_samples, lambda done: bar.update(done - bar.n))


def cached_fisher(
    workspace: Workspace, latents: Latents, side: str, *, num_samples: int, cache_dir: Path | None
) -> Fisher:
    """The Fisher of a side on the model's device, from disk when the same weights met the same data before."""
    parameters = parameters_of(workspace)
    if cache_dir is None:
        return side_fisher(workspace, latents, side, num_samples=num_samples)
    digest = sha256(json.dumps([side, num_samples, workspace.seed]).encode())
    for tensor in (*parameters.values(), latents.mean, latents.std, latents.class_labels):
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    path = cache_dir / f"fisher-{digest.hexdigest()[:12]}.safetensors"
    if path.exists():
        kept = load_fisher(path)
        return {name: kept[name].to(each.device) for name, each in parameters.items()}
    fisher = side_fisher(workspace, latents, side, num_samples=num_samples)
    cache_dir.mkdir(parents=True, exist_ok=True)
    save_fisher(fisher, path, metadata={"side": side, "num_samples": num_samples, "seed": workspace.seed})
    return fisher


def fisher_ratio_mask(workspace: Workspace, *, threshold: float) -> Mask:
    """SFR-on's mask 1[F_f / F_r >= threshold] from the workspace's two Fisher diagonals."""
    return ratio_mask(workspace.forget_fisher, workspace.retain_fisher, threshold=threshold)


def forget_gradient_mask(workspace: Workspace, *, fraction: float, num_batches: int = 20) -> Mask | None:
    """SalUn's mask: the top share of |sum of forget gradients| over all weights together; None at fraction 0."""
    if fraction == 0:
        return None
    loss = simple_loss(workspace, workspace.forget, "forget", batch_size=64)
    score = summed_gradient(parameters_of(workspace), loss, num_batches)
    return top_fraction_mask(score, fraction=fraction)


def with_null_row(workspace: Workspace, mask: Mask | None) -> Mask | None:
    """The mask with the null row set: it has no evidence without label dropout, yet some methods train it."""
    if mask is None:
        return None
    name = label_table_name(workspace.model.transformer)
    return include_rows(mask, name, [workspace.model.null_class])
