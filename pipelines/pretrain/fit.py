"""One resumable training loop for every network that is trained from nothing."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from ..files import replace_file
from ..progress import bar_of


def fit(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    ema_half_life: float = 0.0,
    checkpoint_path: Path | None = None,
    checkpoint_every: int = 250,
    progress: str = "",
) -> None:
    """Train ``network`` in place on ``loss(step)`` with AdamW, warm-up and cosine decay.

    With ``ema_half_life`` (in steps) the network ends with the exponential moving average of its weights. Progress is
    kept in ``checkpoint_path`` and taken up again from there; ``loss`` must be a function of the step alone.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = warmup_and_cosine(optimizer, steps, floor=learning_rate / 100)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    averaged = parts["averaged"] = copy.deepcopy(network) if ema_half_life else network
    start = resume(parts, checkpoint_path)
    with bar_of(steps, progress, unit="step", shown=bool(progress), done=start, stays=True) as bar:
        for step in range(start, steps):
            value = loss(step)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if ema_half_life:
                average_in(averaged, network, half_life=min(ema_half_life, 1 + step / 10))  # short early on
            keeping = checkpoint_path is not None and (step + 1) % checkpoint_every == 0
            if keeping or step % 50 == 0 or step + 1 == steps:
                bar.set_postfix_str(f"loss {check_finite(value, progress):.4f}", refresh=False)
            if keeping:
                keep(parts, step + 1, checkpoint_path)
            bar.update()
    copy_weights(averaged, network)


def warmup_and_cosine(
    optimizer: torch.optim.Optimizer, steps: int, *, floor: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """A linear rise over the first twentieth of the steps, then half a cosine down to ``floor``."""
    warmup = max(1, steps // 20)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup), eta_min=floor)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warmup])


@torch.no_grad()
def average_in(averaged: nn.Module, network: nn.Module, *, half_life: float) -> None:
    """Move the averaged weights towards the current ones; ``half_life`` counts steps."""
    for mean, current in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(current, 1 - 0.5 ** (1 / half_life))


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy weights only: the buffers of an averaged copy were never updated."""
    for weight, current in zip(source.parameters(), target.parameters(), strict=True):
        current.copy_(weight)


def check_finite(value: Tensor, title: str) -> float:
    """The loss as a number; ``DivergedError`` when it is not one."""
    number = value.item()
    if number != number or abs(number) == float("inf"):
        raise DivergedError(f"the loss of {title or 'the network'} is {number}: lower its learning rate")
    return number


def resume(parts: dict, checkpoint_path: Path | None) -> int:
    """Load every part from the checkpoint and return the next step; 0 without a checkpoint."""
    if checkpoint_path is None or not checkpoint_path.exists():
        return 0
    state = torch.load(checkpoint_path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]


def keep(parts: dict, step: int, checkpoint_path: Path) -> None:
    """Write a checkpoint to its final name in one rename."""
    with replace_file(checkpoint_path) as temporary:
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, temporary)
