"""The units of work of a batch: each knows what it needs, whether it is done, and how it is done.

Every unit writes its outcome under a temporary name and renames it, so doing one twice changes nothing.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from eval.blocks import score_block
from eval.by_class import covers_all
from eval.evaluate import read_record, write_record
from pipelines.errors import MissingError
from pipelines.text import counted

from ..api import Request, execute
from ..api.cards import write_card
from ..api.evaluating import Comparison
from ..api.probing import probe
from ..rundir import RunDir
from .draw import Draw, original_identity
from .folder import BatchDir
from .identity import model_identity
from .loaded import Loaded, is_kept, observations_path
from .merge import merged_record
from .shard_file import Shard, read_shard, whole_shard, write_shard

KINDS = ("preparation", "run", "reference", "shard", "record", "probe")  # in the order of the work


@dataclass(frozen=True, kw_only=True)
class Unit(ABC):
    """One piece of work that one worker does."""

    kind: ClassVar[str]
    name: str  # names its claim and its log
    title: str  # for people
    needs: tuple[str, ...] = ()  # names of the units that must be done before
    model: str = ""  # what it loads: a worker stays with a model while there is work on it
    rows: float = 0  # network rows, roughly: its part of the time

    @abstractmethod
    def is_done(self, folder: BatchDir) -> bool:
        """Whether its outcome is there and whole; cheap, as every worker asks it again and again."""

    @abstractmethod
    def carry_out(self, folder: BatchDir, loaded: Loaded) -> None:
        """Do it and write its outcome."""


@dataclass(frozen=True, kw_only=True)
class RunUnit(Unit):
    """An ordinary run, not scored here: its images are those of the shards."""

    kind: ClassVar[str] = "run"
    request: Request
    command: str

    def is_done(self, folder: BatchDir) -> bool:
        """Whether the run is complete."""
        run = RunDir(self.request.output_dir)
        return run.is_erased and run.state == "complete"

    def carry_out(self, folder: BatchDir, loaded: Loaded) -> None:
        """Make the model; a run that was cut short goes on from its checkpoint."""
        loaded.drop_models()
        execute(self.request, command=self.command, progress=False)


@dataclass(frozen=True, kw_only=True)
class ReferenceUnit(Unit):
    """What the scorer sees in real images, once for all models."""

    kind: ClassVar[str] = "reference"
    asked: Comparison
    images: str  # REAL or TRAINING of ``loaded``

    def is_done(self, folder: BatchDir) -> bool:
        """Whether the observations are there and whole."""
        return is_kept(observations_path(folder, self.asked, self.images))

    def carry_out(self, folder: BatchDir, loaded: Loaded) -> None:
        """Look at every real image."""
        loaded.keep_observations(self.asked, self.images)


@dataclass(frozen=True, kw_only=True)
class ShardUnit(Unit):
    """Some blocks of one model's images."""

    kind: ClassVar[str] = "shard"
    draw: Draw
    first_block: int
    num_blocks: int
    num_images: int
    keep_images: bool = False

    def path(self, folder: BatchDir) -> Path:
        """The shard's file."""
        return folder.shards_dir / f"{self.name}.safetensors"

    def is_done(self, folder: BatchDir) -> bool:
        """Whether the file is whole, of the model as it is today, and with images where they are wanted."""
        found = whole_shard(self.path(folder))
        if found is None or (self.keep_images and not found[1]["images"]):
            return False
        return found[1]["weights"] == self.weights()

    def weights(self) -> str:
        """The model that draws, by the bytes of its files; empty while it is still to be made."""
        asked = self.draw.comparison
        try:
            if self.draw.side == "original":
                return original_identity(asked)
            return model_identity(asked.model, vae=asked.vae)
        except MissingError:
            return ""

    def carry_out(self, folder: BatchDir, loaded: Loaded) -> None:
        """Draw and score the blocks."""
        asked = self.draw.comparison
        model, scorer = loaded.model(self.draw), loaded.scorer(asked)
        blocks, drawn, places = {}, [], []
        pictured = {place for found in self.draw.pictured().values() for place in found}
        for number, block in list(enumerate(self.draw.blocks()))[self.first_block :][: self.num_blocks]:
            state, images = score_block(
                model, block, self.draw.metrics(scorer), settings=asked.protocol.sampler_settings(), scorer=scorer,
                context=self.draw.context(scorer), size=self.draw.block,
            )  # fmt: skip
            blocks[number] = state
            first = number * self.draw.block
            kept = [place for place in range(len(block)) if self.keep_images or first + place in pictured]
            drawn.append(images[kept])
            places += [first + place for place in kept]
            print(f"block {number}: {counted(len(block), 'image')}", file=sys.stderr)
        facts = {"title": self.title, "weights": self.weights(), "images": self.keep_images, "places": places}
        kept_images = torch.cat(drawn) if places else None
        write_shard(self.path(folder), Shard(blocks=blocks, facts=facts, images=kept_images))


@dataclass(frozen=True, kw_only=True)
class RecordUnit(Unit):
    """The result record of one model under one protocol, from the shards of both sides."""

    kind: ClassVar[str] = "record"
    asked: Comparison
    earlier_classes: tuple[int, ...]
    shards: Sequence[ShardUnit]
    metrics: tuple[str, ...]
    labels: dict[str, Any]  # where the record stands in the table
    first: bool  # whether its protocol is the one under which a run is probed and compared
    command: str

    def path(self, folder: BatchDir) -> Path:
        """The record's file."""
        return folder.records_dir / f"{self.name}.json"

    def sources(self, folder: BatchDir) -> dict[str, str]:
        """The checksum of each shard behind the record; those that are not whole are missing."""
        found = {unit.name: whole_shard(unit.path(folder)) for unit in self.shards}
        return {name: whole[0] for name, whole in found.items() if whole}

    def is_done(self, folder: BatchDir) -> bool:
        """Whether the record is there and made of the shards, real images, judges and metrics of today."""
        try:
            record = read_record(self.path(folder))
        except MissingError:
            return False
        return record["batch"] == self.about(folder) and (not self.goes_to_run or self.run.results_path.exists())

    def about(self, folder: BatchDir) -> dict[str, Any]:
        """What the batch adds to a record."""
        measured_with = {
            "metrics": list(self.metrics),
            "judges": self.asked.judges.to_dict(),
            "needs": list(self.needs),
        }
        return {**self.labels, **measured_with, "shards": self.sources(folder)}

    @property
    def run(self) -> RunDir:
        """The folder of the run that made the model."""
        return RunDir(Path(self.asked.model))

    @property
    def goes_to_run(self) -> bool:
        """Whether the record is also that of a run, which is then compared and attacked like any other."""
        return self.first and self.labels["made"]

    def carry_out(self, folder: BatchDir, loaded: Loaded) -> None:
        """Merge the shards and write the record."""
        shards = [(unit.draw, read_shard(unit.path(folder))) for unit in self.shards]
        record = merged_record(self.asked, shards, loaded, earlier_classes=self.earlier_classes, metrics=self.metrics)
        if self.goes_to_run and not self.is_of_run(record):
            facts = {"config": self.asked.config.as_dict(), "command": self.command}
            write_record({**record, **facts}, self.run.results_path)
            write_card(self.run)
        write_record({**record, "batch": self.about(folder)}, self.path(folder))

    def is_of_run(self, record: dict[str, Any]) -> bool:
        """Whether the run has this record already, with the attacks that were made since."""
        if not self.run.results_path.exists():
            return False
        held = read_record(self.run.results_path)
        return all(held.get(key) == record[key] for key in ("asked", "original", "erased"))


@dataclass(frozen=True, kw_only=True)
class ProbeUnit(Unit):
    """Attacks on one scored run, which keep their own outcomes."""

    kind: ClassVar[str] = "probe"
    run: Path
    original: str
    names: tuple[str, ...]
    budget: str
    device: str

    def is_done(self, folder: BatchDir) -> bool:
        """Whether the run's record has every attack on all its classes under this budget and the run's own seed."""
        run = RunDir(self.run)
        record = read_record(run.results_path) if run.results_path.exists() else {}
        made, seed = record.get("attacks", {}), run.config.seed
        return all(
            name in made and self.is_outcome(made[name], seed=seed) and covers_all(record, name) for name in self.names
        )

    def is_outcome(self, attack: Mapping[str, Any], *, seed: int) -> bool:
        """Whether a recorded attack is of this budget and seed; one that names no seed was made by the run's own."""
        return (attack["budget"]["name"], attack.get("seed", seed)) == (self.budget, seed)

    def carry_out(self, folder: BatchDir, loaded: Loaded) -> None:
        """Attack the run."""
        loaded.drop_models()
        probe(self.run, probes=self.names, budget=self.budget, device=self.device, progress=False)
