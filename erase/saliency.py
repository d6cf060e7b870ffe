"""Saliency of weights: Fisher diagonals and the masks that they give.

The Fisher diagonal is the empirical one, F_i = E_n[(d_i L_n)^2] over samples n. Masks: S_i = 1[F_f,i / F_r,i >= gamma]
(SFR-on, arXiv 2409.19732) and the top share of |sum of forget gradients| (SalUn, arXiv 2310.12508). Several ranks
share the samples of one evidence; each then has the whole of it.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.errors import DivergedError
from pipelines.ranks import part_of, sum_over_ranks
from pipelines.tensor_file import load_tensors, save_tensors

Fisher = dict[str, Tensor]  # non-negative float32 by parameter name
Mask = dict[str, Tensor]  # one bool per weight by parameter name
FISHER_KIND = "dit-erase Fisher diagonal 1"
MASK_KIND = "dit-erase saliency mask 1"


def fisher_diagonal(
    parameters: dict[str, nn.Parameter],
    per_sample_loss: Callable[[int], Tensor],
    num_samples: int,
    progress: Callable[[int], None] | None = None,
) -> Fisher:
    """Mean over samples of the squared gradient of one sample's loss, on the device of the parameters.

    ``per_sample_loss(i)`` gives the loss () of sample i alone; evaluation mode and undropped labels are the caller's
    part. ``progress`` is told the number of samples that this rank has done.
    """
    total = zeros_of(parameters)
    for done, index in enumerate(range(num_samples)[part_of(num_samples)], start=1):
        gradients = gradients_of(per_sample_loss(index), parameters)
        torch._foreach_addcmul_(total, gradients, gradients)
        if progress:
            progress(done)
    sum_over_ranks(total)
    torch._foreach_div_(total, num_samples)
    return dict(zip(parameters, total, strict=True))


def summed_fisher_diagonal(
    parameters: dict[str, nn.Parameter],
    losses: Callable[[int], Iterable[Tensor]],
    num_samples: int,
    progress: Callable[[int], None] | None = None,
) -> Fisher:
    """Mean over samples of the squared gradient of the **sum** of each sample's losses.

    ``losses(i)`` gives the losses () of sample i one at a time, so that the graphs need not exist together.
    """
    total = zeros_of(parameters)
    for done, index in enumerate(range(num_samples)[part_of(num_samples)], start=1):
        summed = zeros_of(parameters)
        for loss in losses(index):
            torch._foreach_add_(summed, gradients_of(loss, parameters))
        torch._foreach_addcmul_(total, summed, summed)
        if progress:
            progress(done)
    sum_over_ranks(total)
    torch._foreach_div_(total, num_samples)
    return dict(zip(parameters, total, strict=True))


def summed_gradient(
    parameters: dict[str, nn.Parameter],
    batch_loss: Callable[[int], Tensor],
    num_batches: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """SalUn's saliency (arXiv 2310.12508): absolute value of the gradient summed over all batches."""
    total = zeros_of(parameters)
    for done, index in enumerate(range(num_batches)[part_of(num_batches)], start=1):
        torch._foreach_add_(total, gradients_of(batch_loss(index), parameters))
        if progress:
            progress(done)
    sum_over_ranks(total)
    torch._foreach_abs_(total)
    return dict(zip(parameters, total, strict=True))


def zeros_of(parameters: dict[str, nn.Parameter]) -> list[Tensor]:
    """Accumulators in float32 on the device of the parameters."""
    return [torch.zeros_like(each, dtype=torch.float32, requires_grad=False) for each in parameters.values()]


def gradients_of(loss: Tensor, parameters: dict[str, nn.Parameter]) -> list[Tensor]:
    """Gradients in float32, zeros for a parameter that the loss does not reach; ``.grad`` is left alone."""
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return [gradient.float() for gradient in gradients]


def ratio_mask(
    forget_fisher: Fisher, retain_fisher: Fisher, *, threshold: float, always: Sequence[str] = (), floor: float = 0.01
) -> Mask:
    """SFR-on's mask S_i = 1[F_f,i / F_r,i >= threshold] (arXiv 2409.19732) for weights with evidence, F_f,i > 0.

    F_r is held above ``floor`` times the median of its positive entries, so that a weight without evidence on the
    retain side (a label row of another class) is not chosen for a trace on the forget side. Parameters named in
    ``always`` are chosen whole.
    """
    unknown = [name for name in always if name not in forget_fisher]
    if unknown or forget_fisher.keys() != retain_fisher.keys():
        raise ValueError(f"the two Fisher diagonals and always={list(always)} do not name the same parameters")
    check_scores(forget_fisher)
    check_scores(retain_fisher)

    # The floor is one number for the whole model.
    num_positive = sum(int((each > 0).sum()) for each in retain_fisher.values())
    least = floor * kth_largest(retain_fisher.values(), (num_positive + 1) // 2) if num_positive else 0.0

    mask = {}
    for name, forget in forget_fisher.items():
        salient = (forget > 0) & (forget >= threshold * retain_fisher[name].clamp(min=least))
        mask[name] = torch.ones_like(salient) if name in always else salient
    return mask


def top_fraction_mask(score: dict[str, Tensor], *, fraction: float) -> Mask:
    """The top ``fraction`` of all weights together by non-negative ``score``: exactly that many, ties by position.

    A weight with score zero is never chosen, so fewer are when too few have a score.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--mask-fraction {fraction} must be above 0 and at most 1")
    check_scores(score)
    wanted = round(fraction * sum(each.numel() for each in score.values()))
    wanted = min(wanted, sum(int((each > 0).sum()) for each in score.values()))
    if wanted == 0:
        return {name: torch.zeros_like(each, dtype=torch.bool) for name, each in score.items()}

    # All above the last place, then as many of those level with it as there is room for.
    last = kth_largest(score.values(), wanted)
    mask = {name: each > last for name, each in score.items()}
    room = wanted - sum(int(each.sum()) for each in mask.values())
    for name, each in score.items():
        level = each == last
        mask[name] |= level & (level.flatten().cumsum(0).view_as(level) <= room)
        room = max(room - int(level.sum()), 0)
    return mask


def kth_largest(values: Iterable[Tensor], k: int) -> float:
    """The k-th largest (from 1) of all elements of non-negative float32 tensors, exactly and without a sort.

    Bits of non-negative floats order as integers: a histogram of the upper 16 bits finds the bin, one of the lower 16
    within that bin finds the value. Needs memory for a copy of one tensor, not of all.
    """
    tensors = list(values)
    upper, rest = find_bin((float_bits(each) >> 16 for each in tensors), k)
    lower, _ = find_bin((bits[bits >> 16 == upper] & 0xFFFF for bits in map(float_bits, tensors)), rest)
    return torch.tensor((upper << 16) | lower, dtype=torch.int32).view(torch.float32).item()


def float_bits(values: Tensor) -> Tensor:
    """Bits of non-negative values as int32 (n,), -0 as 0."""
    return values.detach().float().flatten().abs().view(torch.int32)


def find_bin(codes: Iterable[Tensor], k: int) -> tuple[int, int]:
    """The 16-bit code at place ``k`` from the top, and that place among the codes equal to it."""
    counts = sum(torch.bincount(each, minlength=1 << 16) for each in codes)
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, k))
    above = int(from_top[place - 1]) if place else 0
    return (1 << 16) - 1 - place, k - above


def check_scores(scores: dict[str, Tensor]) -> None:
    """Refuse scores that order nothing: NaN, infinite or negative ones."""
    for name, each in scores.items():
        if not (torch.isfinite(each).all() and (each >= 0).all()):
            raise DivergedError(f"the saliency of {name!r} is not finite: use a wider precision for its gradients")


def density(mask: Mask) -> float:
    """Share of weights inside the mask."""
    return sum(int(each.sum()) for each in mask.values()) / sum(each.numel() for each in mask.values())


def include_rows(mask: Mask, name: str, rows: Sequence[int]) -> Mask:
    """A copy of the mask with whole rows of one parameter inside it, e.g. label rows of an embedding table."""
    table = mask[name].clone()
    table[list(rows)] = True
    return {**mask, name: table}


def save_mask(mask: Mask, path: Path, *, metadata: dict[str, Any] | None = None) -> None:
    """Write a mask as packed bits, one tensor per parameter; ``metadata`` is plain JSON and says where it came from."""
    packed = {name: torch.from_numpy(np.packbits(each.cpu().numpy().ravel())) for name, each in mask.items()}
    shapes = {name: list(each.shape) for name, each in mask.items()}
    save_tensors(path, packed, kind=MASK_KIND, metadata={"shapes": shapes, "about": metadata or {}})


def load_mask(path: Path) -> Mask:
    """Read a mask (``MissingError`` unless the file is a whole mask)."""
    packed, metadata = load_tensors(path, kind=MASK_KIND)
    mask = {}
    for name, shape in metadata["shapes"].items():
        bits = np.unpackbits(packed[name].numpy(), count=int(np.prod(shape, dtype=np.int64)))
        mask[name] = torch.from_numpy(bits).view(shape).bool()
    return mask


def save_fisher(fisher: Fisher, path: Path, *, metadata: dict[str, Any] | None = None) -> None:
    """Write a Fisher diagonal in float32; ``metadata`` is plain JSON and says of which model, data and samples."""
    tensors = {name: each.float() for name, each in fisher.items()}
    save_tensors(path, tensors, kind=FISHER_KIND, metadata={"about": metadata or {}})


def load_fisher(path: Path) -> Fisher:
    """Read a Fisher diagonal (``MissingError`` unless the file is a whole one)."""
    return load_tensors(path, kind=FISHER_KIND)[0]
