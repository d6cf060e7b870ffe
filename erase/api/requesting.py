"""A request checked as far as it can be before anything is loaded or written."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.protocol import Protocol
from pipelines.errors import UsageError
from pipelines.ranks import check_same, on_first, shared_errors

from ..config import ErasureConfig
from ..configure import DEFAULT_METHOD, configure
from ..logger import check_loggers
from ..memory_savings import saving_as
from ..rundir import RunDir
from . import plan
from .devices import check_ranks, pick_device
from .judging import Judges, check_scoring, find_classifier, pick_protocol
from .stopping import FLAG
from .watching import Neighbours, choose_neighbours


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that one run was asked for; checked, but nothing loaded or written yet."""

    config: ErasureConfig
    output_dir: Path
    protocol: Protocol | None  # None: not scored
    judges: Judges  # what it is scored with
    device: torch.device
    gates: tuple[str, ...] = ()  # bounds that its report tells
    log_to: tuple[str, ...] = ()  # loggers that get a copy of its log
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
    log_to: Sequence[str] = (),
) -> Request:
    """Check a request as far as it can be without loading a weight; the arguments are those of ``run``."""
    on_first(lambda: check_loggers(log_to))
    with shared_errors():
        config = configure(model, classes, method=method, preset=preset, data=data, options=options)
        where, picked = pick_device(device), pick_protocol(protocol, model)
        check_ranks(config.engine)
        watched = choose_neighbours(model, config.forget_classes, neighbours, protocol=picked)
        judges = Judges(reference=reference, classifier=classifier, inception=inception, neighbours=watched)
        check_scoring(picked, model, judges)
        if config.stop_classifier:
            find_classifier(config.stop_classifier, flag=FLAG)
    check_same({"configuration": config.hash, "--output": str(output_dir), "--protocol": str(picked)})
    folder = Path(output_dir) if output_dir else default_output(config)  # what memory adds does not move it
    config, notes = fitted(config, where, memory, given=options or {}, folder=folder)
    with shared_errors():
        RunDir(folder).check(config)
    return Request(
        config=config, output_dir=folder, protocol=picked, judges=judges, device=where, notes=notes,
        log_to=tuple(log_to),
    )  # fmt: skip


def fitted(
    config: ErasureConfig, device: torch.device, memory: str, *, given: Mapping[str, Any], folder: Path
) -> tuple[ErasureConfig, tuple[str, ...]]:
    """The configuration after ``memory`` has had its say, and what was decided; settings in ``given`` stay.

    A run that began in ``folder`` keeps what it began with, whatever is free today. Of several processes the first
    decides for all.
    """
    if memory not in ("auto", "fixed"):
        raise UsageError(f"--memory {memory!r} is not one of auto, fixed")
    if memory == "fixed":
        return config, ()
    begun = on_first(lambda: begun_config(RunDir(folder)))
    if begun is not None and (same := continued(begun, config, given=given)) is not None:
        return same, ()
    found, sentence = on_first(lambda: plan.fit(config, device, fixed=given))
    return found, (sentence,) if sentence else ()


def continued(begun: ErasureConfig, config: ErasureConfig, *, given: Mapping[str, Any]) -> ErasureConfig | None:
    """The request with the savings of a run that it continues; None where it is another one."""
    try:
        same = saving_as(begun, config, fixed=given)
    except UsageError:  # a saving that does not go with what is asked for now
        return None
    return same if same.hash == begun.hash else None


def begun_config(folder: RunDir) -> ErasureConfig | None:
    """What a run in the folder began with; None where none did, or where nobody can tell."""
    try:
        return folder.config if folder.config_path.exists() else None
    except UsageError:
        return None  # the check of the folder says what is wrong with it


def default_output(config: ErasureConfig) -> Path:
    """``runs/MODEL-CLASSES-METHOD-HASH`` in the working directory: the same request finds its own folder again."""
    classes = "-".join(str(index) for index in config.forget_classes[:3])
    return Path("runs") / f"{Path(config.model).name.lower()}-{classes}-{config.method}-{config.hash[:6]}"
