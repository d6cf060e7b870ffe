"""Timing in rounds: variants of one work take turns, and each is divided by the baseline of its own round.

They share a process, or have one each where the memory that one has torn up would slow the other down. On a CPU seconds
are those that a process had of one core, so that other programs count as little as they can; on a GPU they are wall
time between two synchronisations.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from pipelines.versions import versions

SAME, LOWER, FEWER = "same arithmetic", "bf16", "shipped defaults"
Lane = Literal["same arithmetic", "bf16", "shipped defaults"]
NUM_ROUNDS = 5


@dataclass(kw_only=True)
class Turns:
    """One of several processes that work one at a time, always the one that is furthest behind.

    What slows the machine for a while slows all of them. ``seconds`` are those of this process alone.
    """

    device: torch.device
    place: int  # among the processes
    shares: Any  # of the work that each has done; a list that all of them see
    changed: Any  # a condition that all of them see
    seconds: float = 0.0
    started: float = 0.0

    def begin(self) -> None:
        """Wait for the first turn."""
        self.pass_on(0.0)
        self.started = Stopwatch(self.device).now()

    def pause(self, share: float) -> None:
        """With this share of the work done, let the others go on that have done less."""
        self.seconds += Stopwatch(self.device).now() - self.started
        self.pass_on(share)
        self.started = Stopwatch(self.device).now()

    def end(self) -> None:
        """Leave the machine to the others."""
        with self.changed:
            self.shares[self.place] = math.inf
            self.changed.notify_all()

    def pass_on(self, share: float) -> None:
        """Tell the others how much is done, and wait until nobody has done less."""
        with self.changed:
            self.shares[self.place] = share
            self.changed.notify_all()
            self.changed.wait_for(lambda: min(enumerate(self.shares), key=lambda each: each[1])[0] == self.place)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: how many times the baseline's time the product's fits into, by round."""

    benchmark: str
    case: str
    lane: Lane
    baseline_seconds: float  # median
    seconds: float  # median
    ratio: float  # median of the rounds
    lowest: float
    highest: float
    at_least: float = 0.0  # what is asked for; 0 for a figure without a bound
    gate: dict[str, float] = field(default_factory=dict)  # error by name that was held below its bound before timing


class Stopwatch:
    """Seconds of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """A reading; only differences mean something."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def time(self, work: Callable[[], Any]) -> float:
        """Seconds that some work takes."""
        started = self.now()
        work()
        return self.now() - started


def in_turns(
    variants: Mapping[str, Callable[[], Any]],
    device: torch.device,
    *,
    num_rounds: int = NUM_ROUNDS,
    num_warm: int = 1,
    before: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every variant in every round, after some that do not count; ``before`` precedes each, untimed."""
    watch = Stopwatch(device)

    def timed(work: Callable[[], Any]) -> float:
        before()
        return watch.time(work)

    timers = {name: partial(timed, work) for name, work in variants.items()}
    return in_rounds(timers, num_rounds=num_rounds, num_warm=num_warm)


def in_processes(
    makers: Mapping[str, Callable[[], Callable[[], Any]]], device: torch.device, *, num_rounds: int = NUM_ROUNDS
) -> dict[str, list[float]]:
    """The same for variants that each have a process of their own, in which its maker, picklable, makes the work."""
    context = multiprocessing.get_context("spawn")
    pipes = {name: context.Pipe() for name in makers}
    sides = [context.Process(target=serve, args=(make, device, pipes[name][1])) for name, make in makers.items()]
    for side, (_, there) in zip(sides, pipes.values(), strict=True):
        side.start()
        there.close()  # so that the end of a process ends its pipe
    try:
        return in_rounds({name: partial(asked, here) for name, (here, _) in pipes.items()}, num_rounds=num_rounds)
    finally:
        for side in sides:
            side.kill()
            side.join()


def serve(make: Callable[[], Callable[[], Any]], device: torch.device, pipe: Connection) -> None:
    """Do the work once whenever the other end asks, and send its seconds."""
    torch.set_num_threads(1)
    watch, work = Stopwatch(device), make()
    while pipe.recv():
        pipe.send(watch.time(work))


def asked(pipe: Connection) -> float:
    """Seconds of the work at the other end, done once."""
    pipe.send(True)
    return pipe.recv()


def in_rounds(
    timers: Mapping[str, Callable[[], float]], *, num_rounds: int = NUM_ROUNDS, num_warm: int = 1
) -> dict[str, list[float]]:
    """Seconds that each timer returns when all take turns; the first rounds do not count."""
    rounds = [{name: timer() for name, timer in timers.items()} for _ in range(num_warm + num_rounds)]
    return {name: [each[name] for each in rounds[num_warm:]] for name in timers}


def compared(
    seconds: Mapping[str, list[float]],
    name: str,
    *,
    benchmark: str,
    case: str,
    lane: Lane,
    at_least: float = 0.0,
    gate: Mapping[str, float] | None = None,
) -> Row:
    """A variant beside the variant called ``baseline`` of the same rounds."""
    ratios = [before / after for before, after in zip(seconds["baseline"], seconds[name], strict=True)]
    return Row(
        benchmark=benchmark,
        case=case,
        lane=lane,
        baseline_seconds=statistics.median(seconds["baseline"]),
        seconds=statistics.median(seconds[name]),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        at_least=at_least,
        gate=dict(gate or {}),
    )


def held(name: str, error: float, bound: float) -> dict[str, float]:
    """An equality gate: the error by name, once it is below its bound (``AssertionError`` otherwise)."""
    assert error < bound, f"{name}: the two sides differ by {error:.2g}, beyond {bound:.0e}; their times say nothing"
    return {name: error}


def machine(device: torch.device) -> dict[str, Any]:
    """What the seconds were measured on."""
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown",
    )
    found = {"processor": processor, "threads": torch.get_num_threads(), "versions": versions()}
    return found if device.type == "cpu" else {**found, "gpu": torch.cuda.get_device_name(device)}


def as_records(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as plain JSON types."""
    return [asdict(row) for row in rows]
