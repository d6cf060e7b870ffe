"""One resumable training loop for every network that is trained from nothing."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import DivergedError


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
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup), eta_min=learning_rate / 100),
        ],
        milestones=[warmup],
    )
    averaged = copy.deepcopy(network) if ema_half_life else None
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    if averaged is not None:
        parts["averaged"] = averaged
    start = resume(parts, checkpoint_path)

    for step in (bar := tqdm(range(start, steps), initial=start, total=steps, desc=progress, disable=not progress)):
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if averaged is not None:
            # A short average early on, the full half-life once enough steps have passed.
            decay = 0.5 ** (1 / min(ema_half_life, 1 + step / 10))
            for mean, current in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.data.lerp_(current.data, 1 - decay)
        keeping = checkpoint_path is not None and (step + 1) % checkpoint_every == 0
        if keeping or step % 50 == 0 or step + 1 == steps:
            bar.set_postfix(loss=f"{check_finite(value, progress):.4f}")
        if keeping:
            keep(parts, step + 1, checkpoint_path)
    if averaged is not None:
        # Weights only: the averaged copy's buffers were never updated.
        for mean, current in zip(averaged.parameters(), network.parameters(), strict=True):
            current.data.copy_(mean.data)


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
    checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint_path.with_name(checkpoint_path.name + ".tmp")
    torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, temporary)
    temporary.replace(checkpoint_path)
