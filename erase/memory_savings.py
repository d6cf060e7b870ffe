"""Settings that take less memory: what ``--memory auto`` adds until a run fits, the mildest first."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .config import ErasureConfig
from .memory import MOMENT_BYTES, count_memory
from .method import Method

RESERVE = 0.9  # of the free memory that a plan may fill: allocators keep some
SAVINGS = ("diagnostics", "forget_moments", "gradient_checkpointing", "retain_moments")  # what may be set to fit


def fit_memory(
    config: ErasureConfig,
    method: Method,
    transformer_config: dict[str, Any],
    *,
    vae_weights: int,
    device: torch.device,
    free: int,
    fixed: frozenset[str],
) -> tuple[ErasureConfig, list[str]]:
    """The configuration with as many savings, the mildest first, as it takes to fit into ``free`` bytes.

    Settings named in ``fixed`` stay as they are. Also returns the flags that were set.
    """
    chosen = []
    for name, value, flag in savings(config, method):
        if peak(config, method, transformer_config, vae_weights=vae_weights, device=device) <= RESERVE * free:
            break
        if name not in fixed:
            config = with_setting(config, name, value)
            chosen.append(flag)
    return config, chosen


def savings(config: ErasureConfig, method: Method) -> list[tuple[str, Any, str]]:
    """Settings that take less memory: first those that leave every step as it is, then the one that does not."""
    engine = config.engine
    dual = engine.optimizers == "dual"
    found: list[tuple[str, Any, str]] = []
    if engine.diagnostics:
        found.append(("diagnostics", False, "--no-diagnostics"))
    if dual and method.mask_density < MOMENT_BYTES["full"] / MOMENT_BYTES["packed"] and not engine.weight_decay:
        found.append(("forget_moments", "packed", "--forget-moments packed"))
    if not config.gradient_checkpointing:
        found.append(("gradient_checkpointing", True, "--gradient-checkpointing"))
    if dual and importlib.util.find_spec("torchao"):
        found.append(("retain_moments", "8bit", "--retain-moments 8bit"))
    return found


def what_helps(config: ErasureConfig, fits: Callable[[ErasureConfig], bool]) -> str:
    """What would make a run fit that no saving does: smaller batches, a package that is not installed, or nothing."""
    smallest = with_setting(with_setting(config, "forget_batch_size", 1), "retain_batch_size", 1)
    if fits(smallest):
        return "lower --forget-batch-size and --retain-batch-size"
    installable = config.engine.optimizers == "dual" and not importlib.util.find_spec("torchao")
    if installable and fits(with_setting(smallest, "retain_moments", "8bit")):
        return "pip install 'dit-erase[8bit]' for --retain-moments 8bit, and lower the batch sizes if need be"
    return "smaller batches alone do not help: it needs a device with more memory"


def saving_as(begun: ErasureConfig, config: ErasureConfig, *, fixed: Iterable[str]) -> ErasureConfig:
    """``config`` with the savings that a run began with, but for the settings in ``fixed``."""
    for name in {*SAVINGS} - {*fixed}:
        config = with_setting(config, name, setting(begun, name))
    return config


def setting(config: ErasureConfig, name: str) -> Any:
    """One setting of a configuration or of its engine."""
    return getattr(config.engine if hasattr(config.engine, name) else config, name)


def with_setting(config: ErasureConfig, name: str, value: Any) -> ErasureConfig:
    """A configuration with one setting, of its own or of its engine, changed."""
    if hasattr(config.engine, name):
        return dataclasses.replace(config, engine=dataclasses.replace(config.engine, **{name: value}))
    return dataclasses.replace(config, **{name: value})


def peak(
    config: ErasureConfig, method: Method, transformer_config: dict[str, Any], *, vae_weights: int, device: torch.device
) -> int:
    """Bytes of the phase that takes most."""
    phases = count_memory(config, method, transformer_config, vae_weights=vae_weights, device=device)
    return max(phase.total for phase in phases)
