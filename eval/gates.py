"""Gates: bounds on a result record that a release pipeline can depend on, such as ``retain_drop<=0.02``."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import UsageError

from .by_class import Rows, covers_all, rows_by_class
from .metric import displays
from .probe import probe_names
from .recovery import is_telling, recovery
from .words import class_name

GATE = re.compile(r"\s*([a-z_.]+)\s*(<=|>=|<|>)\s*([-+0-9.e]+)\s*")
DERIVED = ("retain_drop", "frechet_ratio")
HOLDS = {
    "<=": lambda value, bound: value <= bound,
    ">=": lambda value, bound: value >= bound,
    "<": lambda value, bound: value < bound,
    ">": lambda value, bound: value > bound,
}


@dataclass(frozen=True)
class Gate:
    """One bound on one number of a record."""

    name: str
    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.bound:g}"

    @property
    def probe(self) -> str | None:
        """The probe that has to be run for this gate, if any."""
        return self.name.partition(".")[2] if self.name.startswith("recovery.") else None


def parse_gates(text: str) -> list[Gate]:
    """Gates from ``NAME<=BOUND, ...`` (``UsageError`` names the part that cannot be read, or the names there are)."""
    gates = []
    for part in text.split(","):
        found = GATE.fullmatch(part)
        if found is None:
            raise UsageError(
                f"--gate {part.strip()!r} is not NAME<=BOUND (or >=, <, >); write for instance retain_drop<=0.02"
            )
        try:
            gate = Gate(found[1], found[2], float(found[3]))
        except ValueError:
            raise UsageError(f"--gate {part.strip()!r}: {found[3]!r} is not a number") from None
        known = [*displays(), *DERIVED, *(f"recovery.{name}" for name in probe_names())]
        if gate.name not in known:
            raise UsageError(f"--gate {gate.name!r} is not one of {', '.join(known)}")
        gates.append(gate)
    return gates


def values_of(gate: Gate, record: Mapping[str, Any]) -> dict[str, float | None]:
    """What a gate looks at: the recovery of every erased class by its label, or the one number under an empty label."""
    if gate.probe is None:
        return {"": value_of(gate.name, record)}
    attacked = rows_by_class(record, gate.probe) if gate.probe in record["probes"] else {}
    found = {label: recovered_value(gate.probe, rows) for label, rows in attacked.items()}
    return found if covers_all(record, gate.probe) else {**found, "": None}


def value_of(name: str, record: Mapping[str, Any]) -> float | None:
    """A gated score of a record; None where it was not measured or is not defined."""
    original, erased = record["original"], record["erased"]
    if name == "retain_drop":
        return minus(original.get("retain_accuracy"), erased.get("retain_accuracy"))
    if name == "frechet_ratio":
        before, after = (each.get("frechet", {}).get("value") for each in (original, erased))
        return after / before if before and after is not None else None
    return erased.get(name, {}).get("value")


def recovered_value(probe: str, rows: Rows) -> float | None:
    """The recovery of a class; None also under an attack that says nothing without a retrained model, and has none."""
    found = recovery(rows)
    return found["value"] if found["floor"] is not None or is_telling(probe, found) else None


def minus(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> float | None:
    """Difference of two entries' values; None unless both have one."""
    values = [each and each["value"] for each in (left, right)]
    return None if None in values else values[0] - values[1]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of a gate."""

    gate: Gate
    value: float | None  # None: not measured or not defined, which holds no gate
    about: str  # the class that it is of, where a gate looks at several
    holds: bool

    @property
    def finding(self) -> str:
        """The gated number in words."""
        name = f"{self.gate.name} of {self.about}" if self.about else self.gate.name
        if self.value is not None and not math.isnan(self.value):
            return f"{name} is {self.value:.4g}"
        floor = ", which may take a model that never saw the class (--retrained)" if self.gate.probe else ""
        return f"{name} has no value{floor}"


def judged(gates: Sequence[Gate], record: Mapping[str, Any]) -> list[Judged]:
    """Each gate with the number that decides it, and whether it holds: of several classes for each."""
    return [judge(gate, record) for gate in gates]


def judge(gate: Gate, record: Mapping[str, Any]) -> Judged:
    """What decides is a class without a value, else the one with the worst."""
    values = values_of(gate, record)
    sign = -1 if gate.relation.startswith("<") else 1
    label, value = min(values.items(), key=lambda each: (each[1] is not None, sign * (each[1] or 0)))
    about = class_name(record, label) if label and len(record["forget_classes"]) > 1 else ""
    holds = value is not None and HOLDS[gate.relation](value, gate.bound)
    return Judged(gate=gate, value=value, about=about, holds=holds)


def failed_gates(gates: Sequence[Gate], record: Mapping[str, Any]) -> list[str]:
    """One sentence for each gate that does not hold; a number that was not measured holds no gate."""
    return [f"{each.gate} fails: {each.finding}" for each in judged(gates, record) if not each.holds]


def gates_of(record: Mapping[str, Any]) -> list[Gate]:
    """The gates that a record was last held to; none where none were given."""
    return parse_gates(", ".join(record["gates"])) if record.get("gates") else []
