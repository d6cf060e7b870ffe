"""What several runs share before their first step: encoded or replayed images and the posterior, made once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from pipelines.files import write_json
from pipelines.sources import REPLAY

from ..config import ErasureConfig
from ..configure import method_of
from ..erasure import images_of, load_original, posterior_of
from ..rundir import cache_dir
from .folder import BatchDir
from .identity import short_hash
from .loaded import Loaded
from .units import RunUnit, Unit


@dataclass(frozen=True, kw_only=True)
class PrepareUnit(Unit):
    """Fills the cache for runs of the same data; on a machine with another cache the runs do it themselves."""

    kind: ClassVar[str] = "preparation"
    config: ErasureConfig  # of one of the runs
    posterior: bool
    device: torch.device

    def path(self, folder: BatchDir) -> Path:
        """Says that it was done."""
        return folder.shared_dir / f"{self.name}.json"

    def is_done(self, folder: BatchDir) -> bool:
        """Whether it was done."""
        return self.path(folder).exists()

    def carry_out(self, folder: BatchDir, loaded: Loaded) -> None:
        """Encode or sample the images and, where it is wanted, train the posterior."""
        loaded.drop_models()
        model = load_original(self.config, device=self.device)
        latents, _ = images_of(model, self.config, self.config.data, cache_dir=cache_dir(), progress=False)
        if self.posterior:
            posterior_of(model, latents, self.config, cache_dir=cache_dir(), progress=False)
        write_json({"title": self.title, "cache": str(cache_dir())}, self.path(folder))


def preparations(runs: Sequence[RunUnit]) -> dict[str, list[PrepareUnit]]:
    """The preparations that each run waits for, by the run's name: those that it shares with others."""
    shared: dict[str, list[RunUnit]] = {}
    made: dict[str, PrepareUnit] = {}
    for run in runs:
        for posterior in (False, True):
            config = run.request.config
            if posterior and "posterior" not in method_of(config).needs:
                continue
            name = f"preparation-{short_hash(facts_of(config, posterior))}"
            shared.setdefault(name, []).append(run)
            made[name] = PrepareUnit(
                name=name, title=f"{'posterior' if posterior else 'images'} of {config.data} for {config.model}",
                config=config, posterior=posterior, device=run.request.device, model=config.model,
            )  # fmt: skip
    found: dict[str, list[PrepareUnit]] = {}
    for name, sharing in shared.items():
        for run in sharing if len(sharing) > 1 else ():
            found.setdefault(run.name, []).append(made[name])
    return found


def facts_of(config: ErasureConfig, posterior: bool) -> dict[str, Any]:
    """What the preparation depends on; runs that agree in it share it."""
    facts: dict[str, Any] = {
        "model": [config.model, config.vae, config.time_embedding],
        "data": config.data,
        "posterior": posterior,
    }
    if config.data == REPLAY:
        facts["replay"] = [config.replay_per_class, config.replay_guidance, config.replay_confidence]
    if config.retain_images:
        facts["sample"] = [config.retain_images, list(config.forget_classes)]
    if posterior:
        facts["kind"] = [config.posterior, config.precision]
    if posterior or config.data == REPLAY or config.retain_images:
        facts["seed"] = config.seed
    return facts
