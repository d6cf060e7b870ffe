"""Gates of a finished run: what it is held to, the attacks that this takes, and the report that says so."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.by_class import covers_all
from eval.evaluate import write_record
from eval.gates import Gate, failed_gates, judged
from eval.protocol import Protocol
from pipelines.errors import GateFailedError, UsageError

from ..config import ErasureConfig
from ..rundir import RunDir
from .judging import Judges, protocol_scorer
from .probing import probe
from .redrawing import redraw
from .result import Result
from .retrained import check_retrained
from .scoring import PROBE


def hold_gates(
    result: Result, gates: Sequence[Gate], *, retrained: str | None = None, device: str, progress: bool
) -> list[str]:
    """Hold a finished run to its gates, after the probes that they need; returns a sentence for each.

    ``retrained`` is a model that never saw the erased classes, the floor of every recovery. An outcome that the record
    has already counts as it is, unless it lacks this floor or one of the classes. The record and the report of the run
    tell its gates. Raises ``GateFailedError`` naming each that fails.
    """
    record = result.scores
    noted = not gates or record.get("gates") == list(map(str, gates))
    if not noted:
        record["gates"] = list(map(str, gates))
        write_record(record, RunDir(result.run_dir).results_path)
    if lacking := [name for name in probes_of(gates) if lacks(record, name, retrained)]:
        record = probe(result.run_dir, probes=lacking, retrained=retrained, device=device, progress=progress)
    elif not noted:
        redraw_report(result, record)
    if failures := failed_gates(gates, record):
        raise GateFailedError("; ".join(failures))
    return [f"{each.gate} holds: {each.finding}" for each in judged(gates, record)]


def lacks(record: Mapping[str, Any], name: str, retrained: str | None) -> bool:
    """Whether a record has no outcome of an attack on every erased class, or none beside this floor."""
    if not covers_all(record, name):
        return True
    return retrained is not None and record.get("attacks", {}).get(name, {}).get("retrained") != retrained


def redraw_report(result: Result, record: dict[str, Any]) -> None:
    """Write the report of a run again from its record."""
    asked = dict(record["asked"])
    protocol = Protocol(**asked.pop("protocol"))
    models = {"original": result.original, "erased": result.model}
    scorer = protocol_scorer(result.original, protocol, Judges(**asked))
    folder = RunDir(result.run_dir)
    redraw(models, record, result.config, folder, protocol=protocol, scorer=scorer, command=record.get("command", ""))


def check_floor(gates: Sequence[Gate], retrained: str | None, config: ErasureConfig) -> None:
    """Refuse a floor that no bound is measured from, or that is none of this erasure (``UsageError``).

    Raises ``MissingError`` for one that is not there.
    """
    if retrained is None:
        return
    if not attacks_for(gates, floor=True):
        raise UsageError(
            f"--retrained {retrained} has no effect without a bound on the recovery of an attack, as in --gate "
            '"recovery.embedding_inversion<=0.1"'
        )
    check_retrained(retrained, config)


def attacks_for(gates: Sequence[Gate], *, floor: bool) -> list[str]:
    """The probes to be made for some gates: a run makes the row probe by itself, without a floor."""
    return [name for name in probes_of(gates) if floor or name != PROBE]


def probes_of(gates: Sequence[Gate]) -> list[str]:
    """The probes that some gates look at, each once."""
    return list(dict.fromkeys(gate.probe for gate in gates if gate.probe is not None))
