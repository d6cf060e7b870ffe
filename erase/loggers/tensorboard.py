"""TensorBoard: event files below the run folder, so that ``tensorboard --logdir runs`` shows every run.

``purge_step`` of the event file format makes a reader drop what an earlier process wrote from that step on.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ..logger import LoggedRun, Logger


class TensorBoard(Logger):
    """Scalars and images of TensorBoard's event files, each on disk before the next step begins."""

    rewinds = True

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(run.folder / "tensorboard", purge_step=run.after + 1)
        if run.after < 0:
            text = yaml.safe_dump(dict(run.config), sort_keys=False)
            self.writer.add_text("configuration", f"```yaml\n{text}```", 0)
            self.writer.flush()

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def preview(self, step: int, path: Path) -> None:
        with Image.open(path) as picture:
            self.writer.add_image("preview", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
