"""The run directory: claimed before anything expensive, every file whole or absent, resumable by its configuration."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import MissingError, UsageError
from pipelines.files import read_json, write_json, write_text
from pipelines.launcher import num_launched
from pipelines.versions import versions

from .checkpoint import checkpoint_step
from .config import ErasureConfig, erasure_from_dict, read_yaml, write_yaml
from .optimizers import PhaseMasks
from .saliency import density, save_mask


def cache_dir() -> Path:
    """Where encoded data and other reusable work are kept: ``$ERASE_CACHE``, else below the user's cache folder."""
    named = os.environ.get("ERASE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "erase"


class RunDir:
    """One run on disk: configuration, status, log, environment, model, checkpoint, samples, scores and report."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_new = False  # whether claiming made the folder
        self.config_path = path / "config.yaml"
        self.model_dir = path / "model"
        self.checkpoint_path = path / "checkpoint" / "last.safetensors"
        self.env_path = path / "env.json"
        self.status_path = path / "status.json"
        self.metrics_path = path / "metrics.jsonl"
        self.results_path = path / "eval" / "results.json"
        self.report_path = path / "report.html"
        self.samples_dir = path / "samples"
        self.masks_dir = path / "masks"  # saliency masks as packed bits, where the method has any
        self.loggers_dir = path / "loggers"  # what --log-to keeps on disk
        self.last_good_dir = path / "last-good"  # the model of a run that diverged, before it did

    @property
    def config(self) -> ErasureConfig:
        """What the run began with (``UsageError``: not a configuration)."""
        return erasure_from_dict(read_yaml(self.config_path))

    def check(self, config: ErasureConfig) -> None:
        """Refuse a folder that holds something else or that cannot be written (``UsageError``); writes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--output {self.path} is a file; name a folder that is new, empty or an earlier run")
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise UsageError(f"--output {self.path} cannot be written: {existing} is a file")
        if not os.access(existing, os.W_OK):
            raise UsageError(f"--output {self.path} cannot be written: no permission in {existing}")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not self.config_path.exists():
            raise UsageError(f"--output {self.path} holds something other than a run; name a new or empty folder")
        try:
            held, asked = self.config.identity(), config.identity()
        except UsageError as error:
            raise UsageError(f"--output {self.path} holds something other than a run: {error}") from error
        if held != asked:
            unlike = unlike_settings(held, asked)
            raise UsageError(
                f"--output {self.path} holds a run of another configuration ({', '.join(unlike)} differ); "
                "repeat its options to resume it, or name another folder"
            )

    def claim(self, config: ErasureConfig, *, command: str = "") -> None:
        """Check, create the folder and write the configuration, the environment and the command that asks for it."""
        self.check(config)
        self.is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config_path.exists():  # first: without it the folder would not be known as a run
            write_yaml(config.as_dict(), self.config_path)
        for folder in (self.results_path.parent, self.samples_dir):
            folder.mkdir(exist_ok=True)
        if not self.is_erased:
            self.checkpoint_path.parent.mkdir(exist_ok=True)
        write_json({**environment(), "command": command}, self.env_path)

    def abandon(self) -> None:
        """Take back what claiming wrote, where nothing has come to be since: the run was refused.

        The folder itself goes where claiming made it.
        """
        files = (self.env_path, self.status_path, self.config_path)  # the last one makes the folder known as a run
        folders = (self.checkpoint_path.parent, self.results_path.parent, self.samples_dir)
        if {*self.path.iterdir()} - {*files, *folders} or any(any(each.glob("*")) for each in folders):
            return
        for folder in folders:
            if folder.exists():
                folder.rmdir()
        for file in files:
            file.unlink(missing_ok=True)
        if self.is_new:
            self.path.rmdir()

    def set_status(self, state: str, *, reason: str = "", seconds: float = 0.0) -> None:
        """Record how far the run is: erasing, scoring, complete, diverged or interrupted; why, and after how long."""
        write_json({"state": state, "reason": reason, "seconds": seconds}, self.status_path)

    def preview_path(self, step: int) -> Path:
        """Where the picture that was taken at one step lies."""
        return self.samples_dir / f"step-{step:06d}.png"

    def previews(self) -> dict[int, Path]:
        """The pictures that were taken during the erasure, by step."""
        paths = sorted(self.samples_dir.glob("step-*.png"))
        return {int(path.stem.removeprefix("step-")): path for path in paths}

    @property
    def is_erased(self) -> bool:
        """Whether the erased model is there."""
        return (self.model_dir / "model_index.json").exists()

    @property
    def state(self) -> str:
        """The recorded state; ``new`` without one."""
        return read_json(self.status_path)["state"] if self.status_path.exists() else "new"

    @property
    def command(self) -> str:
        """The command that began the run or took it up last; empty where nobody noted it."""
        return read_json(self.env_path).get("command", "") if self.env_path.exists() else ""

    @property
    def seconds(self) -> float:
        """How long a finished run took; 0 for one that is not finished."""
        return (read_json(self.status_path).get("seconds") or 0.0) if self.status_path.exists() else 0.0

    def truncate_metrics(self, step: int) -> None:
        """Drop the log lines after ``step``: a resumed run writes them again."""
        lines = [line for line in self.read_metrics() if line["step"] <= step]
        write_text("".join(json.dumps(line) + "\n" for line in lines), self.metrics_path)

    def keep_masks(self, masks: PhaseMasks) -> None:
        """Write the masks that there are, ``forget`` and ``retain``, with the share of weights inside."""
        for side, mask in (("forget", masks.forget), ("retain", masks.retain)):
            if mask is not None:
                save_mask(mask, self.masks_dir / f"{side}.safetensors", metadata={"density": density(mask)})

    def log(self, line: dict[str, Any]) -> None:
        """Append one log line."""
        with self.metrics_path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete log lines; a line cut short by a kill is left out."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    @property
    def last_logged_step(self) -> int:
        """The step of the last log line; 0 without one."""
        return max((line["step"] for line in self.read_metrics()), default=0)


def unlike_settings(held: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Names of the settings in which two configurations differ, those of the engine and the method one by one."""
    names = []
    for key in {**held, **asked}:  # a setting at the value that says nothing is in neither
        before, after = held.get(key), asked.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names += [name for name in {**before, **after} if before.get(name) != after.get(name)]
        elif before != after:
            names.append(key)
    return sorted(names)


def find_run(path: str | Path) -> RunDir:
    """An existing run directory (``MissingError``)."""
    folder = RunDir(Path(path))
    if not folder.path.exists():
        raise MissingError(f"{folder.path} does not exist; a run directory is needed")
    if not folder.config_path.exists():
        raise MissingError(f"{folder.path} is not a run directory: it has no config.yaml")
    return folder


def find_scored_run(path: str | Path) -> RunDir:
    """An existing run directory with scores (``MissingError``, which says what gives it some)."""
    folder = find_run(path)
    if not folder.results_path.exists():
        raise MissingError(f"{folder.path} {why_unscored(folder)}")
    return folder


def why_unscored(folder: RunDir) -> str:
    """How far a run without scores is, and what gives it some."""
    if folder.state == "complete":
        return f"has no scores: `erase eval {folder.path}` gives it some"
    if folder.state == "diverged":
        return "diverged: there is no erased model; its status.json says which knob to turn"
    config = folder.config
    if folder.is_erased:
        stands = "is erased and not scored yet"
    else:
        step = checkpoint_step(folder.checkpoint_path, config_hash=config.hash)
        stands = f"is not finished, it stands at step {step} of {config.engine.steps}"
    return f"{stands}: {f'`{folder.command}`' if folder.command else 'the command that began it'} finishes it"


def environment() -> dict[str, str]:
    """Versions and machine facts that a number may depend on."""
    return {
        **versions(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "processes": str(num_launched()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
