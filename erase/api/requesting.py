"""A request checked as far as it can be before anything is loaded or written."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.protocol import Protocol, named
from pipelines.errors import UsageError
from pipelines.model_source import classifier_dir

from ..config import ErasureConfig
from ..configure import DEFAULT_METHOD, configure
from ..rundir import RunDir
from . import plan
from .devices import pick_device
from .judging import Judges, check_scoring
from .watching import Neighbours, choose_neighbours


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that one run was asked for; checked, but nothing loaded or written yet."""

    config: ErasureConfig
    output_dir: Path
    protocol: Protocol | None  # None: not scored
    judges: Judges  # what it is scored with
    device: torch.device
    notes: tuple[str, ...] = ()  # what was decided for the user, one sentence each

    def tell(self) -> None:
        """Say on stderr what was decided for the user."""
        for sentence in self.notes:
            print(sentence, file=sys.stderr)


def request(
    model: str,
    classes: Sequence[str | int],
    *,
    method: str = DEFAULT_METHOD,
    preset: str = "default",
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    protocol: str | Protocol | None = None,
    reference: str | None = None,
    classifier: str | None = None,
    inception: str | None = None,
    neighbours: Neighbours = None,
    device: str = "auto",
    memory: str = "auto",
) -> Request:
    """Check a request as far as it can be without loading a weight; the arguments are those of ``run``."""
    config = configure(model, classes, method=method, preset=preset, data=data, options=options)
    where, notes = pick_device(device), ()
    if memory not in ("auto", "fixed"):
        raise UsageError(f"--memory {memory!r} is not one of auto, fixed")
    if memory == "auto":
        config, sentence = plan.fit(config, where, fixed=options or {})
        notes = (sentence,) if sentence else ()
    picked = pick_protocol(protocol, model)
    watched = choose_neighbours(model, config.forget_classes, neighbours, protocol=picked)
    found = Request(
        config=config,
        output_dir=Path(output_dir) if output_dir else default_output(config),
        protocol=picked,
        judges=Judges(reference=reference, classifier=classifier, inception=inception, neighbours=watched),
        device=where,
        notes=notes,
    )
    check_scoring(found.protocol, model, found.judges, stop_below=config.engine.stop_below)
    RunDir(found.output_dir).check(config)
    return found


def pick_protocol(protocol: str | Protocol | None, model: str) -> Protocol | None:
    """A protocol by name; by default ``small`` for a model that ships its own classifier, else ``quick``."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol == "none":
        return None
    if protocol is None:
        protocol = "small" if classifier_dir(model) else "quick"
    return named(protocol)


def default_output(config: ErasureConfig) -> Path:
    """``runs/MODEL-CLASSES-METHOD-HASH`` in the working directory: the same request finds its own folder again."""
    classes = "-".join(str(index) for index in config.forget_classes[:3])
    return Path("runs") / f"{Path(config.model).name.lower()}-{classes}-{config.method}-{config.hash[:6]}"
