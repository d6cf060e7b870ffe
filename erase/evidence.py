"""What the weights know of some images: Fisher diagonals and gradient sums of the denoising loss, and masks from them.

All of it in evaluation mode, without label dropout, on L_simple.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.diffusion import Noised
from pipelines.embedding import has_tied_embedders, label_table_name
from pipelines.files import is_safetensors
from pipelines.latents import Latents
from pipelines.progress import bar_of
from pipelines.randomness import generator
from pipelines.ranks import everywhere, on_first, part_of
from pipelines.tensor_file import tensors_sha256

from .saliency import (
    Fisher,
    Mask,
    fisher_diagonal,
    include_rows,
    load_fisher,
    ratio_mask,
    save_fisher,
    summed_fisher_diagonal,
    summed_gradient,
    top_fraction_mask,
)
from .squared_gradients import batched_fisher_diagonal, can_square
from .workspace import Workspace

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

TOKENS_AT_ONCE = {"cpu": 1024}  # of the images in one pass of a Fisher diagonal
TOKENS_ON_A_GPU = 4096


def parameters_of(workspace: Workspace) -> dict[str, torch.nn.Parameter]:
    """The trainable weights by plain name; the tied embedder appears once."""
    return dict(workspace.model.transformer.named_parameters())


def simple_loss(workspace: Workspace, latents: Latents, side: str, *, batch_size: int) -> Callable[[int], Tensor]:
    """Mean L_simple of batch number i of a side, at one fixed draw of posterior sample, timestep and noise.

    The images come in one shuffled order: a folder is sorted by class, and its first thousand may all be of one.
    """
    batch = evidence_batch(workspace, latents, side, batch_size=batch_size)
    return lambda index: workspace.denoising(batch(index)).simple.mean()


def single_losses(workspace: Workspace, latents: Latents, side: str) -> Callable[[Sequence[int]], Tensor]:
    """L_simple (B,) of the images with these numbers, each as ``simple_loss`` gives it for a batch of one."""
    image = evidence_batch(workspace, latents, side, batch_size=1)

    def losses(numbers: Sequence[int]) -> Tensor:
        fields = zip(*(vars(image(number)).values() for number in numbers), strict=True)
        return workspace.denoising(Noised(*map(torch.cat, fields))).simple

    return losses


def evidence_batch(workspace: Workspace, latents: Latents, side: str, *, batch_size: int) -> Callable[[int], Noised]:
    """Batch number i of a side, its draws a function of that number and of the batch size alone."""
    order = torch.randperm(len(latents), generator=generator(workspace.seed, "evidence order", side))

    def batch(index: int) -> Noised:
        first = index * batch_size
        indices = order[torch.arange(first, first + batch_size) % len(latents)]
        return workspace.noise(latents, indices, stream=("evidence", side, index), label_dropout=0.0).noised

    return batch


def timestep_losses(
    workspace: Workspace, latents: Latents, side: str, *, chunk: int = 50
) -> Callable[[int], Iterator[Tensor]]:
    """L_simple of image i at every timestep, each with noise of its own, summed over a chunk of timesteps at a time."""
    order = torch.randperm(len(latents), generator=generator(workspace.seed, "evidence order", side))
    schedule, device = workspace.model.noise_schedule, workspace.model.device

    def losses(index: int) -> Iterator[Tensor]:
        chosen = order[[index % len(latents)]]
        draws = generator(workspace.seed, "noise", "timesteps", side, index)
        image, label = latents.draw(chosen, generator=draws).to(device), latents.class_labels[chosen].to(device)
        for first in range(0, schedule.num_timesteps, chunk):
            timesteps = torch.arange(first, min(first + chunk, schedule.num_timesteps), device=device)
            x0, labels = image.expand(len(timesteps), -1, -1, -1), label.expand(len(timesteps))
            noise = torch.randn(x0.shape, generator=draws).to(device)
            noised = Noised(x0, labels, timesteps, noise, schedule.add_noise(x0, noise, timesteps))
            yield workspace.denoising(noised).simple.sum()

    return losses


def measured_fisher(workspace: Workspace, latents: Latents, side: str, *, num_samples: int, summed: bool) -> Fisher:
    """Fisher diagonal of some latents from ``num_samples`` images, with a bar on stderr.

    ``summed`` squares each image's gradient summed over all timesteps (Selective Amnesia, arXiv 2305.10120) instead of
    its gradient at one drawn timestep: another number, and as many times dearer as there are timesteps.
    """
    parameters, transformer = parameters_of(workspace), workspace.model.transformer
    own = len(range(num_samples)[part_of(num_samples)])
    at_once = samples_at_once(transformer, workspace.model.device, checkpointing=transformer.gradient_checkpointing)
    with bar_of(own, f"{side} Fisher", unit="image", shown=workspace.progress) as bar:
        show = lambda done: bar.update(done - bar.n)  # noqa: E731
        if summed:
            return summed_fisher_diagonal(parameters, timestep_losses(workspace, latents, side), num_samples, show)
        if at_once > 1:
            losses = single_losses(workspace, latents, side)
            return batched_fisher_diagonal(transformer, losses, num_samples, at_once=at_once, progress=show)
        return fisher_diagonal(parameters, simple_loss(workspace, latents, side, batch_size=1), num_samples, show)


def samples_at_once(transformer: "DiTTransformer2DModel", device: torch.device, *, checkpointing: bool) -> int:
    """Samples in one pass of a Fisher diagonal: 16 images of DiT-XL/2 on a GPU, fewer in the caches of a CPU.

    One where memory is so short that activations are recomputed, where a layer has no rule for its squares, and where
    untied embedders let one of them be used twice in a pass.
    """
    if checkpointing or not (can_square(transformer) and has_tied_embedders(transformer)):
        return 1
    num_tokens = (transformer.config.sample_size // transformer.config.patch_size) ** 2
    return min(64, max(1, TOKENS_AT_ONCE.get(device.type, TOKENS_ON_A_GPU) // num_tokens))


def cached_fisher(
    workspace: Workspace,
    latents: Latents,
    side: str,
    *,
    num_samples: int,
    summed: bool = False,
    cache_dir: Path | None,
) -> Fisher:
    """The Fisher of some latents on the model's device, from disk when the same weights met the same data before."""
    parameters = parameters_of(workspace)
    about = {
        "side": side,
        "num_samples": num_samples,
        "summed": summed,
        "seed": workspace.seed,
        "precision": workspace.precision,
        **workspace.model.behaviour(),
    }
    if cache_dir is None:
        return measured_fisher(workspace, latents, side, num_samples=num_samples, summed=summed)
    key = sha256(json.dumps([about, tensors_sha256(parameters), latents.key]).encode()).hexdigest()[:12]
    path = cache_dir / f"fisher-{key}.safetensors"
    if everywhere(is_safetensors(path)):
        kept = load_fisher(path)
        return {name: kept[name].to(each.device) for name, each in parameters.items()}
    fisher = measured_fisher(workspace, latents, side, num_samples=num_samples, summed=summed)
    on_first(lambda: save_fisher(fisher, path, metadata=about))
    return fisher


def fisher_ratio_mask(workspace: Workspace, *, threshold: float) -> Mask:
    """SFR-on's mask 1[F_f / F_r >= threshold], from the Fisher diagonals of the forget set and of all images.

    The retain Fisher is not measured for each class: with s the erased classes' share of the images, all of them have
    F = (1 - s) F_r + s F_f, so F_f >= g F_r exactly where F_f >= g / (1 - s + g s) F; at g = 1 that is 1.
    """
    share = workspace.forget_share
    against_all = threshold / (1 - share + threshold * share)
    return ratio_mask(workspace.forget_fisher, workspace.data_fisher, threshold=against_all)


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
