"""One erasure from start to end: configuration, preparation, the loop, the erased model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import UsageError
from pipelines.latents import Latents
from pipelines.model import DiT, load, load_classes
from pipelines.sources import check_source, default_source, replay_latents, training_latents

from .config import OWN_OPTIONS, EngineConfig, ErasureConfig, from_dict, to_dict
from .diffusion_task import DiffusionTask
from .evidence import cached_fisher
from .loop import LoopResult, run_loop
from .method import Method, method_class
from .optimizers import PhaseMasks
from .posterior import PosteriorRecipe, train_posterior
from .workspace import Workspace


def configure(
    model: str,
    classes: Sequence[str | int],
    *,
    method: str = "retain_posterior",
    preset: str = "default",
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ErasureConfig:
    """Resolve a request into a complete configuration, reading configurations only.

    ``options`` hold engine and method settings by field name; they go before the preset's (``default`` or ``paper``),
    those before the method's defaults. Raises ``UsageError`` for an unknown class, method or option and
    ``MissingError`` for a model or data that are not there.
    """
    kind = method_class(method)
    check_preset(preset, kind, method)
    names = load_classes(model)
    forget_classes = tuple(dict.fromkeys(names.resolve(query) for query in classes))
    if not forget_classes:
        raise UsageError("no class to erase was named")
    if len(forget_classes) == len(names):
        raise UsageError("every class of the model was named: at least one must be retained")
    data = data or default_source(model)
    check_source(data, model)

    settings = {**kind.defaults, **(kind.paper if preset == "paper" else {}), **(options or {})}
    own = {name: settings.pop(name) for name in OWN_OPTIONS if name in settings}
    engine, method_options = split_options(kind, method, settings)
    return ErasureConfig(
        model=model,
        forget_classes=forget_classes,
        method=method,
        method_options=to_dict(from_dict(kind, method_options)),
        engine=from_dict(EngineConfig, engine),
        data=data,
        **own,
    )


def check_preset(preset: str, kind: type[Method], method: str) -> None:
    """Refuse an unknown preset, and ``paper`` for a method without published settings (``UsageError``)."""
    if preset not in ("default", "paper"):
        raise UsageError(f"--preset {preset!r} is not one of default, paper")
    if preset == "paper" and not kind.paper:
        raise UsageError(f"--preset paper: method {method} has no published settings for DiT; use --preset default")


def split_options(
    kind: type[Method], method: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Engine settings and method settings; an option of neither raises ``UsageError`` with those that exist."""
    engine_fields = {entry.name for entry in dataclasses.fields(EngineConfig)}
    method_fields = {entry.name for entry in dataclasses.fields(kind)}
    for name in settings:
        if name not in engine_fields | method_fields:
            flags = ", ".join("--" + field.replace("_", "-") for field in sorted(method_fields)) or "none"
            raise UsageError(f"--{name.replace('_', '-')} is not an option of method {method}; its options are {flags}")
    engine = {name: value for name, value in settings.items() if name in engine_fields}
    return engine, {name: value for name, value in settings.items() if name in method_fields}


def method_of(config: ErasureConfig) -> Method:
    """The configured method."""
    return from_dict(method_class(config.method), config.method_options)


@dataclass(kw_only=True)
class Erased:
    """The result of an erasure."""

    model: DiT
    original: DiT
    loop: LoopResult | None  # None for a method that does not train
    masks: PhaseMasks


def run_erasure(
    config: ErasureConfig,
    *,
    cache_dir: Path | None = None,
    checkpoint_path: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda line: None,
    preview: Callable[[int, DiT], None] | None = None,
    scorer: Callable[[DiT], dict[str, float]] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Erased:
    """Erase and return the model in memory; with a ``checkpoint_path`` an earlier run is taken up again."""
    model = load(config.model, device=device)
    method = method_of(config)
    work_dir = None if checkpoint_path is None else checkpoint_path.parent
    workspace = prepare(model, config, method, cache_dir=cache_dir, work_dir=work_dir, progress=progress)
    original = workspace.reference or model.frozen_copy()
    if not method.trains:
        method.edit(workspace)
        return Erased(model=model, original=original, loop=None, masks=PhaseMasks())

    masks = method.masks(workspace)
    bound_scorer = None if scorer is None else lambda: scorer(model)
    task = DiffusionTask(workspace=workspace, method=method, engine=config.engine, scorer=bound_scorer)
    result = run_loop(
        task,
        config.engine,
        seed=config.seed,
        masks=masks,
        checkpoint_path=checkpoint_path,
        config_hash=config.hash,
        log=log,
        preview=None if preview is None else lambda step: preview(step, model),
        progress=progress,
    )
    return Erased(model=model, original=original, loop=result, masks=masks)


def prepare(
    model: DiT,
    config: ErasureConfig,
    method: Method,
    *,
    cache_dir: Path | None,
    work_dir: Path | None,
    progress: bool,
) -> Workspace:
    """Data and everything else that the method needs."""
    latents = training_latents(
        model,
        config.data,
        cache_dir=cache_dir,
        replay_per_class=config.replay_per_class,
        seed=config.seed,
        progress=progress,
    )
    retain_latents = latents
    if "replay" in method.needs:
        retain_latents = replay_latents(
            model, per_class=config.replay_per_class, seed=config.seed, cache_dir=cache_dir, progress=progress
        )
    retained = [index for index in range(model.num_classes) if index not in config.forget_classes]
    workspace = Workspace(
        model=model,
        forget_classes=config.forget_classes,
        forget=nonempty(latents.of_classes(list(config.forget_classes)), "forget", config),
        retain=nonempty(retain_latents.of_classes(retained), "retain", config),
        seed=config.seed,
        work_dir=work_dir,
    )
    add_needs(workspace, latents, config, method.needs, cache_dir=cache_dir)
    return workspace


def nonempty(latents: Latents, side: str, config: ErasureConfig) -> Latents:
    """The latents, unless there are none (``UsageError``)."""
    if len(latents) == 0:
        raise UsageError(f"--data {config.data} holds no image of the {side} classes")
    return latents


def add_needs(
    workspace: Workspace, latents: Latents, config: ErasureConfig, needs: frozenset[str], *, cache_dir: Path | None
) -> None:
    """Make what the method declared in ``needs``; each part is a function of model, data and configuration."""
    model = workspace.model
    if "reference_model" in needs:
        workspace.reference = model.frozen_copy()
    if "posterior" in needs:
        workspace.posterior = train_posterior(model, latents, PosteriorRecipe(), seed=config.seed, cache_dir=cache_dir)
    if "forget_fisher" in needs:
        workspace.forget_fisher = cached_fisher(
            workspace, workspace.forget, "forget", num_samples=config.fisher_samples, cache_dir=cache_dir
        )
    if "retain_fisher" in needs:
        workspace.retain_fisher = cached_fisher(
            workspace, workspace.retain, "retain", num_samples=config.fisher_samples, cache_dir=cache_dir
        )
