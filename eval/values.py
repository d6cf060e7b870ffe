"""A measured number with its 95 % interval and sample size, and the intervals themselves.

Wilson (1927) for shares; Newcombe (1998, method 10) for the difference of two shares.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Z = 1.959963984540054  # two-sided 95 %


@dataclass(frozen=True, kw_only=True)
class Value:
    """One result; ``value`` is None when it could not be measured, and ``detail`` then says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``detail`` only where there is one."""
        entry: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        return {**entry, "detail": dict(self.detail)} if self.detail else entry


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; 0 of 500 gives (0, 0.0076)."""
    if n <= 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + Z**2 / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    # Rounding must not push the ends of 0 of n and n of n past the share itself.
    return max(0.0, min(share, (centre - spread) / scale)), min(1.0, max(share, (centre + spread) / scale))


def share(successes: int, n: int, *, detail: Mapping[str, Any] | None = None) -> Value:
    """``successes`` of ``n`` with Wilson's interval; no value when n is 0."""
    if n == 0:
        return Value(value=None, n=0, detail=detail or {})
    low, high = wilson(successes, n)
    return Value(value=successes / n, low=low, high=high, n=n, detail=detail or {})


def mean(total: float, total_of_squares: float, n: int) -> Value:
    """Mean of n numbers in [0, 1] with its normal 95 % interval, from their sum and sum of squares."""
    if n < 2:
        return Value(value=total if n else None, n=n)
    average = total / n
    variance = max(0.0, total_of_squares - n * average**2) / (n - 1)
    spread = Z * math.sqrt(variance / n)
    return Value(value=average, low=max(0.0, average - spread), high=min(1.0, average + spread), n=n)


def difference(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float | None]:
    """Change between two entries of ``Value.to_dict`` with Newcombe's interval where both have one.

    The interval treats the two as independent; on identical noise it is on the wide side.
    """
    if after["value"] is None or before["value"] is None:
        return {"value": None, "low": None, "high": None}
    change = after["value"] - before["value"]
    if after["low"] is None or before["low"] is None:
        return {"value": change, "low": None, "high": None}
    down = math.hypot(after["value"] - after["low"], before["high"] - before["value"])
    up = math.hypot(after["high"] - after["value"], before["value"] - before["low"])
    return {"value": change, "low": change - down, "high": change + up}
