"""A regression with a label table, small enough for hundreds of steps; as a script, one run to be killed."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from erase.config import EngineConfig
from erase.loop import LoopResult, run_loop
from erase.optimizers import PhaseMasks
from erase.task import Loss
from pipelines.randomness import generator

FORGET_LABEL = 4


class ToyTask:
    """Predict y from (x, label); erasing a label means to raise its loss to a bound."""

    def __init__(self, *, delay: float = 0.0) -> None:
        draw = generator(0, "toy weights")
        shapes = {"table": (5, 4), "first.weight": (16, 7), "first.bias": (16,), "second.weight": (2, 16)}
        self.parameters = {name: nn.Parameter(0.4 * torch.randn(s, generator=draw)) for name, s in shapes.items()}
        self.teacher = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.delay = delay
        self.seen: list[tuple[str, int, int]] = []
        self.rows: Tensor | None = None  # of attackers, image by image

    def batch(self, side: str, step: int, phase: int, size: int = 16) -> tuple[Tensor, Tensor]:
        self.seen.append((side, step, phase))
        draw = generator(1, side, step, phase)
        inputs = torch.randn(size, 3, generator=draw)
        labels = torch.randint(0, 4, (size,), generator=draw)
        return inputs, labels if side == "retain" else torch.full_like(labels, FORGET_LABEL)

    def predict(self, weights: dict[str, Any], batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        rows = weights["table"][labels] if self.rows is None or weights is self.teacher else self.rows
        hidden = torch.cat([inputs, rows], dim=1) @ weights["first.weight"].T + weights["first.bias"]
        return torch.tanh(hidden) @ weights["second.weight"].T

    def error(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (self.predict(self.parameters, batch) - self.predict(self.teacher, batch) - 0.3).square().mean()

    def forget_batch(self, step: int, phase: int) -> Any:
        return self.batch("forget", step, phase)

    def retain_batch(self, step: int, phase: int) -> Any:
        return self.batch("retain", step, phase)

    def relearning_batch(self, step: int, phase: int, *, size: int = 16) -> Any:
        return self.batch("relearning", step, phase, size)

    def forget_loss(self, batch: Any) -> Loss:
        time.sleep(self.delay)
        error = self.error(batch)
        return Loss(-error.clamp(max=2), error.detach())

    def retain_loss(self, batch: Any) -> Loss:
        error = self.error(batch)
        return Loss(error, error.detach())

    def relearning_loss(self, batch: Any) -> Tensor:
        return self.error(batch)

    def attack_starts(self, step: int, phase: int, *, count: int) -> Tensor:
        return torch.randn(count, 4, generator=generator(1, "starts", step, phase))

    @contextmanager
    def attacked_by(self, rows: Tensor, batch: Any) -> Iterator[None]:
        self.rows = rows[torch.arange(len(batch[1])) % len(rows)]
        yield
        self.rows = None

    def attacked_label_loss(self, batch: Any) -> Loss:
        return self.forget_loss(batch)

    def probe_loss(self) -> float:
        return float(self.error(self.batch("retain", -1, 0, size=64)).detach())

    def travel(self) -> dict[str, float]:
        moved = self.parameters["table"].detach() - self.teacher["table"]
        return {"erased_row_travel": float(moved[FORGET_LABEL].norm())}

    def score(self) -> dict[str, float]:
        errors = {side: self.error(self.batch(side, -1, 0, size=64)).detach() for side in ("forget", "retain")}
        return {f"{side}_accuracy": float(torch.exp(-error)) for side, error in errors.items()}


def toy_masks(parameters: dict[str, nn.Parameter], *, seed: int = 0) -> dict[str, Tensor]:
    """A mask of about half of the weights."""
    draw = generator(seed, "toy mask")
    return {name: torch.rand(each.shape, generator=draw) < 0.5 for name, each in parameters.items()}


def run_toy(
    task: ToyTask,
    config: EngineConfig,
    *,
    path: Path | None = None,
    masked: str = "none",
    lines: list[dict[str, Any]] | None = None,
    preview: Any = None,
    seed: int = 3,
    config_hash: str = "cafe",
    progress: bool = False,
) -> LoopResult:
    """``run_loop`` with the settings that most tests share; ``masked`` is none, forget or both."""
    mask = toy_masks(task.parameters)
    masks = {"none": PhaseMasks(), "forget": PhaseMasks(forget=mask), "both": PhaseMasks(forget=mask, retain=mask)}
    return run_loop(
        task,
        config,
        seed=seed,
        masks=masks[masked],
        checkpoint_path=path,
        config_hash=config_hash,
        log=(lambda line: None) if lines is None else lines.append,
        preview=preview,
        progress=progress,
    )


def weights_of(task: ToyTask) -> dict[str, Tensor]:
    """Copies of the weights."""
    return {name: each.detach().clone() for name, each in task.parameters.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are the same bits."""
    return all(torch.equal(left[name].view(torch.int32), right[name].view(torch.int32)) for name in left)


def scripted(scores: list[tuple[float, float]]) -> tuple[ToyTask, list[dict[str, Tensor]]]:
    """A task whose checks give (forget, retain) accuracies in turn, and the weights at each check so far."""
    task, checked = ToyTask(), []

    def score() -> dict[str, float]:
        forget, retain = scores[len(checked)]
        checked.append(weights_of(task))
        return {"forget_accuracy": forget, "retain_accuracy": retain}

    task.score = score
    return task, checked


def main(settings: str, masked: str, checkpoint: str, output: str, delay: str) -> None:
    """One run in a process of its own; its log lines go to stdout, its weights to ``output``."""
    torch.set_num_threads(1)
    task = ToyTask(delay=float(delay))
    run_toy(task, EngineConfig(**json.loads(settings)), path=Path(checkpoint), masked=masked)
    save_file(weights_of(task), output)


if __name__ == "__main__":
    main(*sys.argv[1:])
