"""Running means of the readings of the engine, kept on the device until a log line asks for them."""

import math

import torch
from torch import Tensor

from .update import OuterStep, Phase

SIDES = ("forget", "retain")
MEANS = ("loss", "objective", "grad_norm", "clip_rate")  # the first columns of a side's sums; then nonfinite, steps


class Meter:
    """Sums over the outer steps since the last line; nothing leaves the device before ``read`` or ``nonfinite``."""

    def __init__(self, device: torch.device) -> None:
        self.sums = {side: torch.zeros(len(MEANS) + 2, device=device) for side in SIDES}
        self.last: OuterStep | None = None

    def add(self, record: OuterStep) -> None:
        """Count one outer step: the mean of its phases, and whether any of them was not finite."""
        self.last = record
        for side, phases in zip(SIDES, (record.forget, record.retain), strict=True):
            rows = torch.stack([phase_values(phase) for phase in phases])
            means, bad = rows.mean(0), ~torch.isfinite(rows).all()
            self.sums[side] += torch.cat([means, torch.stack([bad, torch.ones_like(bad)]).float()])

    def nonfinite(self) -> dict[str, int]:
        """Outer steps since the last line in which a side had a loss or gradient that is not finite."""
        return {side: int(sums[-2]) for side, sums in self.sums.items()}

    def read(self) -> dict[str, float | None]:
        """Means since the last line and what the last step measured (None if not finite); starts anew."""
        last = self.last
        line = {"nonfinite": sum(self.nonfinite().values())}
        if last.cosine is not None:
            line["gradient_cosine"] = float(last.cosine)
        for side, phases in zip(SIDES, (last.forget, last.retain), strict=True):
            *sums, _, steps = self.sums[side].tolist()
            line |= {f"{side}_{name}": value / steps for name, value in zip(MEANS, sums, strict=True)}
            if phases[-1].update_norm is not None:
                line[f"{side}_update_norm"] = float(phases[-1].update_norm)
            self.sums[side].zero_()
        return {name: value if math.isfinite(value) else None for name, value in line.items()}


def phase_values(phase: Phase) -> Tensor:
    """The readings of one phase in the order of ``MEANS``."""
    readings = (phase.loss.denoising, phase.loss.objective, phase.norm, phase.clipped)
    return torch.stack([each.detach().float() for each in readings])
