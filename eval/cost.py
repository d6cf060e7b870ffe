"""What an attack takes, counted before any weight is loaded. Each probe declares its own in ``cost`` beside ``run``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .probe import Amount, Budget, probe_module
from .protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the cost of an attack depends on."""

    amount: Amount
    protocol: Protocol
    transformer_config: Mapping[str, Any]
    row_flops: float  # of one image through the whole network once
    num_others: int  # classes that are retained beside the one that is attacked
    num_images: int = Budget.num_images


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counts of one attack on one model; a row is one image through the network once."""

    forward_rows: int = 0
    backward_rows: int = 0
    images: int = 0  # decoded and scored
    classifier_flops: float = 0.0  # of a classifier of noisy latents in use
    training_flops: float = 0.0  # of that classifier's training, once for all models that are attacked

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, count: int) -> "Cost":
        return Cost(**{name: count * value for name, value in vars(self).items()})


def drawing(protocol: Protocol, num_images: int, *, skipped_steps: int = 0) -> Cost:
    """Images that are drawn under a protocol, decoded and scored."""
    rows = protocol.sampler_settings().network_rows(first=skipped_steps)
    return Cost(forward_rows=num_images * rows, images=num_images)


def training(steps: int, *, batch_size: int) -> Cost:
    """Steps of gradient descent on the denoising loss."""
    return Cost(forward_rows=steps * batch_size, backward_rows=steps * batch_size)


def probe_cost(name: str, terms: Terms) -> Cost:
    """What a probe takes on one model (``UsageError`` lists the names)."""
    return probe_module(name).cost(terms)
