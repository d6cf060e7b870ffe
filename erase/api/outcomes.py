"""Outcomes of attacks: kept in the cache with their pictures, told in the record of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.by_class import add_attack
from eval.probe import Budget, ProbeResult
from pipelines.files import is_safetensors
from pipelines.tensor_file import load_tensors

from ..rundir import cache_dir

KIND = "dit-erase probe 1"


@dataclass(frozen=True)
class Outcome:
    """One attack's result and the file that keeps it."""

    result: ProbeResult
    path: Path


def add_outcomes(
    record: dict[str, Any],
    found: Mapping[str, Mapping[int, Mapping[str, Outcome]]],
    budget: Budget,
    *,
    retrained: str | None,
) -> None:
    """Put outcomes by probe, erased class and subject into a record beside those of other probes.

    Each has its budget, its floor, and the files of its pictures: those of the class of which most came back.
    """
    for name, by_class in found.items():
        results = {label: {who: each.result for who, each in rows.items()} for label, rows in by_class.items()}
        worst = add_attack(record, name, results)
        record.setdefault("attacks", {})[name] = {
            "budget": asdict(budget.amount),
            "seed": budget.seed,
            "retrained": retrained,
            "kept": {who: each.path.name for who, each in by_class[worst].items()},
        }


def kept_results(record: Mapping[str, Any]) -> dict[str, dict[str, ProbeResult]]:
    """Results by probe and subject of a record's attacks whose pictures are still in the cache."""
    found = {}
    for name, attacked in record.get("attacks", {}).items():
        paths = {who: probe_dir() / file for who, file in attacked["kept"].items()}
        if all(map(is_safetensors, paths.values())):
            found[name] = {who: load_outcome(path).result for who, path in paths.items()}
    return found


def load_outcome(path: Path) -> Outcome:
    """An attack that was kept."""
    tensors, facts = load_tensors(path, kind=KIND)
    return Outcome(ProbeResult(pictures=tensors["pictures"], **facts), path)


def probe_dir() -> Path:
    """Where attacks are kept."""
    return cache_dir() / "probes"
