"""What an attacker owns and how it trains: images as latents, seeded batches, the denoising loss, Adam."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from pipelines.diffusion import denoising_loss, draw_noise
from pipelines.errors import UsageError
from pipelines.latents import Latents
from pipelines.model import DiT
from pipelines.randomness import epoch_indices, generator

from .probe import Budget


def owned(budget: Budget, class_labels: Sequence[int], *, num_images: int) -> Latents:
    """``num_images`` random images of some classes: what an attacker has found; all where there are no more.

    Raises ``UsageError`` for a budget without images.
    """
    if budget.images is None:
        raise UsageError("this attack needs images of the class: name them with --data")
    members = budget.images.of_classes(list(class_labels))
    order = torch.randperm(len(members), generator=generator(budget.seed, "attacker images"))
    return members.subset(order[:num_images].sort().values)


def batch_loss(model: DiT, images: Latents, step: int, *, batch_size: int, seed: int) -> Tensor:
    """The denoising loss () of batch number ``step`` under the images' own labels, a function of its arguments."""
    indices = epoch_indices(len(images), batch_size, step, seed=seed, stream="attacker order")
    draws = generator(seed, "attacker noise", step)
    x0, labels = images.draw(indices, generator=draws).to(model.device), images.class_labels[indices].to(model.device)
    noised = draw_noise(model.noise_schedule, x0, labels, generator=draws)
    output = model.predict(noised.noisy_latents, noised.timesteps, noised.class_labels)
    return denoising_loss(model.noise_schedule, output, noised).denoising.mean()


def tuned_copy(model: DiT, *, rank: int, seed: int) -> tuple[DiT, list[nn.Parameter]]:
    """A copy whose weights an attacker may change, and the parameters that it trains.

    At rank 0 these are all weights, else the factors of a low-rank update of every matrix (arXiv 2106.09685).
    """
    copied = copy.copy(model)
    copied.transformer = copy.deepcopy(model.transformer).requires_grad_(rank == 0)
    if rank == 0:
        return copied, list(copied.transformer.parameters())
    draws, factors = generator(seed, "low-rank update"), []
    for module in list(copied.transformer.modules()):
        if isinstance(module, nn.Linear):
            update = LowRankUpdate(module.weight, rank=rank, generator=draws)
            register_parametrization(module, "weight", update)
            factors += list(update.parameters())
    return copied, factors


class LowRankUpdate(nn.Module):
    """W + B A with A (R, in) random and B (out, R) zero at the start, so that nothing changes before the first step."""

    def __init__(self, weight: Tensor, *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        num_out, num_in = weight.shape
        down = torch.randn(rank, num_in, generator=generator) / num_in**0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(num_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight (out, in)."""
        return weight + self.up @ self.down


def adam_steps(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    first: int = 0,
    optimizer: torch.optim.Adam | None = None,
) -> torch.optim.Adam:
    """Steps ``first`` to ``steps`` of Adam on ``loss(step)``; hand the optimizer back in to go on."""
    optimizer = optimizer or torch.optim.Adam(parameters, lr=learning_rate)
    for step in range(first, steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    return optimizer
