"""Retraining: no erasure but the standard that erasures are held to, a model trained from scratch without the class.

Affordable for small models made by ``erase pretrain``, whose recipe is known; VAE and classifier are kept, so that the
scores compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pipelines.errors import UsageError
from pipelines.pretrain.recipe import recipe_of
from pipelines.pretrain.transformer import build_dit, train_transformer

from ..method import Method
from ..workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Retrain(Method):
    """Train the same network on the retain set alone."""

    trains: ClassVar[bool] = False

    def edit_rows(self, provenance: Mapping[str, Any]) -> int:
        """Forward and backward of every training batch."""
        recipe = recipe_of(provenance)
        return 0 if recipe is None else 3 * recipe.transformer_steps * recipe.batch_size

    def edit(self, workspace: Workspace) -> None:
        """Replace the weights by those of a new training run; the erased label rows stay untrained."""
        model = workspace.model
        recipe = recipe_of(model.provenance)
        if recipe is None:
            raise UsageError("--method retrain needs a model made by `erase pretrain`: no training recipe is known")
        with torch.random.fork_rng():  # initialisation draws from the global generator
            fresh = build_dit(model.vae, list(model.classes.labels), recipe).to(model.device)
        checkpoint = None if workspace.work_dir is None else workspace.work_dir / "retrain.checkpoint"
        train_transformer(fresh, workspace.retain, recipe, checkpoint_path=checkpoint, progress=workspace.progress)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        model.transformer.load_state_dict(fresh.transformer.state_dict())
