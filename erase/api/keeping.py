"""What a run keeps in its directory besides its scores, and how long it has taken."""

import time
from contextlib import suppress
from typing import Any

from ..checkpoint import checkpoint_step
from ..config import ErasureConfig
from ..erasure import Erased
from ..run_log import RunLog
from ..rundir import RunDir
from .cards import keep


class Clock:
    """Seconds that a run has taken over all its processes."""

    def __init__(self) -> None:
        self.spent = 0.0  # by earlier processes
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Those of earlier processes and of this one."""
        return round(self.spent + time.monotonic() - self.started, 1)


def begin(config: ErasureConfig, folder: RunDir, clock: Clock) -> int:
    """Ready the log and the status of a run for the step after its checkpoint; returns the step of that, else 0."""
    step = checkpoint_step(folder.checkpoint_path, config_hash=config.hash)
    if step:
        folder.truncate_metrics(step)
    else:
        folder.metrics_path.unlink(missing_ok=True)
    folder.set_status("erasing", seconds=clock.seconds)
    return step


def end(folder: RunDir, log: RunLog, state: str, *, reason: str, seconds: float) -> None:
    """Record how a run ended before its end, then end its log."""
    folder.set_status(state, reason=reason, seconds=seconds)
    log.close()


def keep_erased(erased: Erased, config: ErasureConfig, folder: RunDir) -> dict[str, Any]:
    """Write the erased model and its masks, after which the checkpoint has served; returns the model's provenance."""
    folder.keep_masks(erased.masks)
    keep(erased.model, erased.original.provenance, config, folder.model_dir)
    folder.checkpoint_path.unlink(missing_ok=True)
    with suppress(OSError):  # another process may be at it
        folder.checkpoint_path.parent.rmdir()
    return erased.model.provenance
