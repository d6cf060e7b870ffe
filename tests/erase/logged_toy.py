"""A toy run in a run folder, logged to one logger; as a script, one that is killed without warning after step 10."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from erase.checkpoint import checkpoint_step
from erase.config import EngineConfig, ErasureConfig
from erase.loop import LoopResult
from erase.run_log import RunLog
from erase.rundir import RunDir
from eval.pictures import grid, save_png

ENGINE = EngineConfig(steps=12, log_every=1, checkpoint_every=4, preview_every=5)
CONFIG = ErasureConfig(model="toy", forget_classes=(3,), method="sfron", engine=ENGINE)
RECORD = {
    "original": {"forget_accuracy": {"value": 1.0}},
    "erased": {"forget_accuracy": {"value": 0.0}, "frechet": {"value": None}},
}
spec = importlib.util.spec_from_file_location("toy_task", Path(__file__).with_name("toy_task.py"))
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


def logged_toy(path: Path, log_to: tuple[str, ...], *, killed_at: int = 0, kill=None) -> tuple[LoopResult, dict]:
    """The result and the weights of a run that is taken up where its checkpoint stands."""
    torch.set_num_threads(1)
    folder, task = RunDir(path), toy.ToyTask()
    folder.claim(CONFIG)
    step = checkpoint_step(folder.checkpoint_path, config_hash=CONFIG.hash)
    folder.truncate_metrics(step)
    log = RunLog(folder, CONFIG, log_to)
    log.open(step)

    def line(values):
        log.line(values)
        if values["step"] == killed_at:
            kill()

    def preview(taken):
        images = torch.full((2, 3, 4, 4), taken, dtype=torch.uint8)
        save_png(grid(images, columns=2), folder.preview_path(taken))
        log.preview(taken)

    lines = SimpleNamespace(append=line)
    result = toy.run_toy(
        task, ENGINE, path=folder.checkpoint_path, lines=lines, preview=preview, config_hash=CONFIG.hash
    )
    log.scores(RECORD)
    log.close()
    return result, toy.weights_of(task)


if __name__ == "__main__":
    logged_toy(Path(sys.argv[1]), (sys.argv[2],), killed_at=10, kill=lambda: os.kill(os.getpid(), signal.SIGKILL))
