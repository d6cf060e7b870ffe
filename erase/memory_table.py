"""What weights, gradients and moments of a DiT take in the ways that the optimizers can keep their moments."""

from dataclasses import dataclass
from typing import Any

from .config import EngineConfig
from .memory import BYTES, moments, num_weights
from .method import method_class

MASK_FRACTION = 0.3  # of the weights in the mask of the packed rows
PACKED = {"forget_moments": "packed"}
WAYS: dict[str, dict[str, Any]] = {
    "--optimizers shared": {"optimizers": "shared"},
    "--optimizers dual": {},
    f"--forget-moments packed, {MASK_FRACTION:.0%} in the mask": PACKED,
    "and --retain-moments 8bit": {**PACKED, "retain_moments": "8bit"},
}


@dataclass(frozen=True, kw_only=True)
class StateMemory:
    """Bytes that stay for the whole loop; ``erase run --dry-run`` counts activations and copies on top."""

    way: str
    weights: int
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        """All of them together."""
        return self.weights + self.gradients + self.moments


def state_table(transformer_config: dict[str, Any]) -> list[StateMemory]:
    """One row for each way, the most common first."""
    weights = num_weights(transformer_config)
    method = method_class("salun")(mask_fraction=MASK_FRACTION)
    return [
        StateMemory(
            way=way,
            weights=BYTES * weights,
            gradients=BYTES * weights,
            moments=sum(moments(EngineConfig(**settings), method, weights).values()),
        )
        for way, settings in WAYS.items()
    ]
