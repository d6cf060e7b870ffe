"""Gates: bounds on a result record that a release pipeline can depend on, such as ``retain_drop<=0.02``."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import UsageError

from .metric import displays
from .probe import probe_names

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
            raise UsageError(f"--gate {part.strip()!r} is not NAME<=BOUND; write for instance retain_drop<=0.02")
        try:
            gate = Gate(found[1], found[2], float(found[3]))
        except ValueError:
            raise UsageError(f"--gate {part.strip()!r}: {found[3]!r} is not a number") from None
        known = [*displays(), *DERIVED, *(f"recovery.{name}" for name in probe_names())]
        if gate.name not in known:
            raise UsageError(f"--gate {gate.name!r} is not one of {', '.join(known)}")
        gates.append(gate)
    return gates


def value_of(name: str, record: Mapping[str, Any]) -> float | None:
    """A gated number of a record; None where it was not measured."""
    original, erased = record["original"], record["erased"]
    if name.startswith("recovery."):
        return record.get("recovery", {}).get(name.partition(".")[2], {}).get("value")
    if name == "retain_drop":
        return minus(original.get("retain_accuracy"), erased.get("retain_accuracy"))
    if name == "frechet_ratio":
        before, after = (each.get("frechet", {}).get("value") for each in (original, erased))
        return after / before if before and after is not None else None
    return erased.get(name, {}).get("value")


def minus(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> float | None:
    """Difference of two entries' values; None unless both have one."""
    values = [each and each["value"] for each in (left, right)]
    return None if None in values else values[0] - values[1]


def failed_gates(gates: list[Gate], record: Mapping[str, Any]) -> list[str]:
    """One sentence for each gate that does not hold; a number that was not measured holds no gate."""
    failures = []
    for gate in gates:
        value = value_of(gate.name, record)
        if value is None or math.isnan(value):
            failures.append(f"{gate} fails: {gate.name} was not measured")
        elif not HOLDS[gate.relation](value, gate.bound):
            failures.append(f"{gate} fails: {gate.name} is {value:.4g}")
    return failures
