"""One erasure from start to end: preparation, the loop, the erased model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import DivergedError, UsageError
from pipelines.latents import Latents
from pipelines.model import DiT, load
from pipelines.posterior import Posterior
from pipelines.posterior_head import make_posterior, posterior_kind, recipe_of
from pipelines.provenance import earlier_classes, retained_classes
from pipelines.ranks import copy_from_first, num_ranks, on_first
from pipelines.replay import Replay, replay_latents
from pipelines.sources import training_latents

from .config import ErasureConfig
from .configure import method_of
from .diffusion_task import DiffusionTask
from .evidence import cached_fisher
from .interrupt import stoppable
from .loop import LoopResult, run_loop
from .memory import LARGE_MODEL, return_freed_memory
from .method import Method
from .optimizers import PhaseMasks
from .workspace import Workspace


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
    diverged: Callable[[DiT], None] = lambda model: None,
    scorer: Callable[[DiT], dict[str, float]] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Erased:
    """Erase and return the model in memory; with a ``checkpoint_path`` an earlier run is taken up again.

    ``diverged`` gets the model with its last good weights before a ``DivergedError`` leaves.
    """
    model = load_original(config, device=device)
    method = method_of(config)
    work_dir = None if checkpoint_path is None else checkpoint_path.parent
    with stoppable("preparing"):
        workspace = prepare(model, config, method, cache_dir=cache_dir, work_dir=work_dir, progress=progress)
        if not method.trains:
            on_first(lambda: method.edit(workspace))
            copy_from_first(list(model.transformer.state_dict().values()))
            return Erased(model=model, original=original_of(workspace, config), loop=None, masks=PhaseMasks())
        masks = method.masks(workspace)

    bound_scorer = None if scorer is None else lambda: scorer(model)
    task = DiffusionTask(workspace=workspace, method=method, engine=config.engine, scorer=bound_scorer)
    shown = None if preview is None else lambda step: preview(step, model)
    try:
        result = run_loop(
            task, config.engine, seed=config.seed, masks=masks, checkpoint_path=checkpoint_path,
            config_hash=config.hash, log=log, preview=shown, progress=progress,
        )  # fmt: skip
    except DivergedError:
        on_first(lambda: diverged(model))
        raise
    return Erased(model=model, original=original_of(workspace, config), loop=result, masks=masks)


def original_of(workspace: Workspace, config: ErasureConfig) -> DiT:
    """The model before the erasure; read again where it was not held while the weights trained."""
    return workspace.reference or load_original(config, device=workspace.model.device)


def load_original(config: ErasureConfig, *, device: torch.device | str) -> DiT:
    """The model that is to be erased from, as its configuration names it."""
    time_embedding = None if config.time_embedding == "own" else config.time_embedding
    model = load(config.model, device=device, vae=config.vae, time_embedding=time_embedding)
    if config.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
    if model.device.type == "cpu" and sum(each.nbytes for each in model.transformer.parameters()) > LARGE_MODEL:
        return_freed_memory()
    return model


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
    earlier = earlier_classes(model.provenance, config.forget_classes)
    latents, forget = images_of(model, config, config.data, cache_dir=cache_dir, progress=progress)
    kept_latents = latents
    if "replay" in method.needs:
        replay = replay_of(config, earlier)
        kept_latents = replay_latents(model, replay, seed=config.seed, cache_dir=cache_dir, progress=progress)
    retained = retained_classes(model.provenance, config.forget_classes, num_classes=model.num_classes)
    workspace = Workspace(
        model=model,
        forget_classes=config.forget_classes,
        forget=nonempty(forget, "forget", config),
        retain=nonempty(kept_latents.of_classes(retained), "retain", config),
        seed=config.seed,
        earlier_classes=earlier,
        work_dir=work_dir,
        precision=config.precision,
        progress=progress,
    )
    add_needs(workspace, latents, kept_latents, config, method.needs, cache_dir=cache_dir)
    return workspace


def images_of(
    model: DiT, config: ErasureConfig, source: str, *, cache_dir: Path | None, progress: bool
) -> tuple[Latents, Latents]:
    """Latents of a source as a configuration takes them: of all classes or a sample of them, and of the erased ones.

    Where the first are a sample, the second are still every image of the erased classes. A class that the model lost
    to an earlier erasure is in neither: as a retained class it would be trained back in.
    """
    earlier = earlier_classes(model.provenance, config.forget_classes)
    shared = {
        "replay": replay_of(config, earlier),
        "seed": config.seed,
        "cache_dir": cache_dir,
        "progress": progress,
    }
    latents = training_latents(model, source, num_images=config.retain_images, without=earlier, **shared)
    if config.retain_images:
        return latents, training_latents(model, source, classes=config.forget_classes, **shared)
    return latents, latents.of_classes(list(config.forget_classes))


def replay_of(config: ErasureConfig, earlier: Sequence[int]) -> Replay:
    """The replay that a configuration asks for, without the classes that were erased before."""
    return Replay(
        per_class=config.replay_per_class, guidance=config.replay_guidance, confidence=config.replay_confidence,
        without=tuple(earlier),
    )  # fmt: skip


def nonempty(latents: Latents, side: str, config: ErasureConfig) -> Latents:
    """The latents, unless there are none, or too few for the ranks to share (``UsageError``)."""
    if len(latents) == 0:
        raise UsageError(f"--data {config.data} holds no image of the {side} classes")
    if len(latents) < num_ranks():
        raise UsageError(
            f"--data {config.data} holds {len(latents)} images of the {side} classes for {num_ranks()} processes"
        )
    return latents


def add_needs(
    workspace: Workspace,
    latents: Latents,
    kept_latents: Latents,
    config: ErasureConfig,
    needs: frozenset[str],
    *,
    cache_dir: Path | None,
) -> None:
    """Make what the method declared in ``needs``; each part is a function of model, data and configuration.

    ``latents`` are the data, ``kept_latents`` the images of all classes that the retain set was taken from.
    """
    model, fisher = workspace.model, {"num_samples": config.fisher_samples, "cache_dir": cache_dir}
    if "reference_model" in needs:
        workspace.reference = model.frozen_copy()
    if "posterior" in needs:
        workspace.posterior = posterior_of(
            workspace.reference, latents, config, cache_dir=cache_dir, progress=workspace.progress
        )
    if "forget_fisher" in needs:
        workspace.forget_fisher = cached_fisher(workspace, workspace.forget, "forget", **fisher)
    if needs & {"data_fisher", "summed_fisher"}:
        summed = "summed_fisher" in needs
        workspace.data_fisher = cached_fisher(workspace, kept_latents, "data", summed=summed, **fisher)
        erased = torch.isin(kept_latents.class_labels, torch.tensor(workspace.forget_classes))
        workspace.forget_share = erased.float().mean().item()


def posterior_of(
    model: DiT, latents: Latents, config: ErasureConfig, *, cache_dir: Path | None, progress: bool
) -> Posterior:
    """The posterior that a configuration asks for, on the latents of its data."""
    kind = posterior_kind(config.posterior, model.latent_shape)
    return make_posterior(
        model, latents, kind, recipe_of(kind, model.num_classes), seed=config.seed, cache_dir=cache_dir,
        precision=config.precision, progress=progress,
    )  # fmt: skip
