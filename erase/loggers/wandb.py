"""Weights & Biases: a run of ``$WANDB_PROJECT``; with ``WANDB_MODE=offline`` it stays in the run folder.

A kill takes what had not left the machine yet with it. What has is known from the server; what is offline is written
whole by every process, so that the one folder that is left is the one to sync.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pipelines.errors import UsageError

from ..logger import FLAG, PROJECT, LoggedRun, Logger


class Wandb(Logger):
    """One run of Weights & Biases, known by its id; its curves are drawn over our steps, not over its own count."""

    @classmethod
    def check(cls) -> None:
        import wandb

        if os.environ.get("WANDB_MODE", "online") != "online":
            return
        try:
            wandb.login(verify=False)  # asks in a terminal, before a progress bar covers the question
        except wandb.errors.Error as error:
            raise UsageError(
                f"{FLAG} wandb: {error} Or set WANDB_MODE=offline to log into the run folder only"
            ) from error

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            dir=run.folder,
            config=dict(run.config),
            allow_val_change=True,  # a resumed run may be watched more closely
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        self.image = wandb.Image
        self.run.define_metric("*", step_metric="step")
        if self.run.offline:
            for folder in (run.folder / "wandb").glob(f"offline-run-*-{run.id}"):
                if folder.absolute() != Path(self.run.dir).parent.absolute():
                    shutil.rmtree(folder)

    def last_step(self) -> int:
        return self.run.summary.get("step", -1) if self.run.resumed else -1

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def preview(self, step: int, path: Path) -> None:
        self.run.log({"step": step, "preview": self.image(str(path))})

    def close(self) -> None:
        self.run.finish()
