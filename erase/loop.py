"""The engine: outer steps with logs, checkpoints, a divergence guard, weight averaging and an early stop.

It knows a task only by ``erase.task.Task``. On a CPU an interrupted run ends with the bits of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.errors import DivergedError, InterruptedRun, UsageError
from pipelines.progress import bar_of
from pipelines.ranks import on_first

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import EngineConfig
from .diagnostics import SIDES, Meter
from .early_stop import EarlyStop, WeightAverage, copy_to_cpu, copy_weights
from .interrupt import stop_requests, stop_signal
from .optimizers import PhaseMasks, PhaseStepper
from .task import Task
from .update import Updater


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """How a run ended; the weights themselves are in ``task.parameters``."""

    steps: int  # outer steps taken
    weights_step: int  # outer step whose weights these are: an earlier one when the early stop kept it
    averaged: bool  # whether these are averaged weights
    stopped_early: bool
    resumed_from: int  # outer step of the checkpoint that this process started from; 0 for none
    checks: list[dict[str, Any]]  # step and scores of each early-stop check
    seconds: float  # over all processes of the run, replayed steps not counted


def run_loop(
    task: Task,
    config: EngineConfig,
    *,
    seed: int,
    masks: PhaseMasks,
    checkpoint_path: Path | None,
    config_hash: str,
    log: Callable[[dict[str, Any]], None],
    preview: Callable[[int], None] | None,
    progress: bool,
) -> LoopResult:
    """Run a task to its end, from its checkpoint if there is one; ``task.parameters`` then hold the result.

    ``log`` gets one flat dictionary of JSON values per line, ``preview`` the number of outer steps taken while
    ``task.parameters`` hold what would be the result, from the original to the result itself. A resumed run logs the
    steps after its checkpoint again: drop lines past ``erase.checkpoint.checkpoint_step`` first.

    Raises ``DivergedError`` with the last good weights in ``task.parameters``, and ``InterruptedRun`` after the step in
    which SIGINT or SIGTERM came, its state saved; a second signal acts at once.
    """
    run = Run(
        task, config, seed=seed, masks=masks, checkpoint_path=checkpoint_path, config_hash=config_hash, log=log,
        preview=preview,
    )  # fmt: skip
    run.start()
    bar = bar_of(config.steps, "erasing", unit="step", shown=progress, done=run.step, stays=True)
    with bar, stop_requests() as signals:
        while run.step < config.steps and not run.early_stop.stopped:
            run.advance()
            run.show(bar)
            if name := stop_signal(signals):
                run.interrupt(name)
    return run.finish()


@dataclass(frozen=True)
class Due:
    """What is to be done after an outer step."""

    log: bool
    score: bool
    preview: bool
    checkpoint: bool


class Run:
    """The state of a run between two outer steps."""

    def __init__(
        self,
        task: Task,
        config: EngineConfig,
        *,
        seed: int,
        masks: PhaseMasks,
        checkpoint_path: Path | None,
        config_hash: str,
        log: Callable[[dict[str, Any]], None],
        preview: Callable[[int], None] | None,
    ) -> None:
        self.task = task
        self.config = config
        self.seed = seed
        self.checkpoint_path = checkpoint_path
        self.config_hash = config_hash
        self.log = log
        shows = preview is not None and config.preview_every > 0
        self.preview = torch.no_grad()(preview) if shows else lambda step: None

        self.stepper = PhaseStepper(task.parameters, config, masks=masks)
        self.updater = Updater(task, self.stepper, config, seed=seed)
        self.meter = Meter(self.stepper.parameters[0].device)
        self.early_stop = EarlyStop(target=config.stop_below)
        self.average: WeightAverage | None = None
        if config.average_half_life > 0:
            self.average = WeightAverage(task.parameters, half_life=config.average_half_life)

        self.step = self.resumed_from = 0
        self.probe_start = 0.0
        self.last_good = (0, copy_to_cpu(task.parameters))
        self.line: dict[str, Any] = {}
        self.started = time.monotonic()

    def start(self) -> None:
        """Load the checkpoint, or take the reading that the divergence guard compares with."""
        if self.checkpoint_path is not None and self.checkpoint_path.exists():
            self.resume(load_checkpoint(self.checkpoint_path, config_hash=self.config_hash))
            return
        self.probe_start = self.probe()
        if not math.isfinite(self.probe_start):
            raise DivergedError("the retain probe loss is not finite before the first step: the model itself is broken")
        self.preview(self.step)

    def advance(self) -> None:
        """Take one outer step and do what is due after it."""
        due = self.due(self.step + 1)
        record = self.updater.run(self.step, measure=due.log and self.config.diagnostics)
        self.step += 1
        self.meter.add(record)
        if self.average is not None:
            self.average.update(self.step)

        # A reading is trusted, and a state kept, only once the guard has passed.
        probe = self.guard() if due.log or due.checkpoint else math.nan
        scores = self.score() if due.score else {}
        if due.log:
            self.write_line(probe, scores)
        if due.preview and not self.early_stop.stopped:  # the result is drawn at the end
            with self.result_weights():
                self.preview(self.step)
        if due.checkpoint:
            self.keep()

    def due(self, step: int) -> Due:
        """What is due once ``step`` outer steps are taken; a check is logged, the last step is checked."""
        config = self.config
        last = step == config.steps
        score = config.stop_below > 0 and (step % config.stop_every == 0 or last)
        log = step == 1 or step % config.log_every == 0 or last or score
        preview = config.preview_every > 0 and step % config.preview_every == 0 and not last
        return Due(log=log, score=score, preview=preview, checkpoint=step % config.checkpoint_every == 0 and not last)

    def probe(self) -> float:
        """The retain probe loss of the current weights."""
        with torch.no_grad():
            return self.task.probe_loss()

    def guard(self) -> float:
        """The retain probe loss; raises ``DivergedError`` with the last good weights in place if the run diverged."""
        probe = self.probe()
        nonfinite = self.meter.nonfinite()
        factor = self.config.divergence_factor
        if any(nonfinite.values()):
            side = "retain" if nonfinite["retain"] > nonfinite["forget"] else "forget"
            self.give_up(probe, side=side, reason=f"the {side} loss or gradient is not finite")
        elif not math.isfinite(probe) or (probe > factor * self.probe_start > 0):
            change = f"the retain probe loss went from {self.probe_start:.4g} to {probe:.4g}"
            self.give_up(probe, side="forget", reason=f"{change}, beyond --divergence-factor {factor:g}")
        return probe

    def give_up(self, probe: float, *, side: str, reason: str) -> NoReturn:
        """Log the step that diverged, put the last good weights back and raise ``DivergedError``."""
        if self.due(self.step).log:
            self.write_line(probe, {})
        good_step, weights = self.last_good
        copy_weights(weights, self.task.parameters)

        # The update that broke the weights came before the loss that shows it: the larger learning rate is the knob.
        rates = {each: getattr(self.config, f"{each}_learning_rate") for each in SIDES}
        side = max((side, *SIDES), key=rates.__getitem__)
        rate = rates[side]
        raise DivergedError(
            f"by step {self.step} {reason}; the weights of step {good_step} are kept: "
            f"lower --{side}-learning-rate (now {rate:g})"
        )

    def score(self) -> dict[str, float]:
        """Scores of the weights that would be the result, taken in by the early stop."""
        with torch.no_grad(), self.result_weights():
            scores = self.task.score()
            self.early_stop.check(self.step, scores, self.task.parameters)
        return scores

    def result_weights(self) -> AbstractContextManager[None]:
        """Inside, the parameters hold what the run would hand back if it ended here."""
        return nullcontext() if self.average is None else self.average.swapped_in()

    def write_line(self, probe: float, scores: dict[str, float]) -> None:
        """Log the means since the last line, the readings of this step and what the task adds."""
        rates = {f"{side}_learning_rate": self.stepper.learning_rate(side, self.step - 1) for side in SIDES}
        with torch.no_grad():
            travel = self.task.travel()
        readings = {**self.meter.read(), "probe_loss": probe if math.isfinite(probe) else None, **rates}
        self.line = {"step": self.step, **readings, "seconds": self.seconds(), **travel, **scores}
        self.log(self.line)

    def seconds(self) -> float:
        """Seconds since the run began, without those that a kill threw away."""
        return round(time.monotonic() - self.started, 3)

    def show(self, bar: tqdm) -> None:
        """Move the progress bar; its numbers are those of the last line, for they cost a synchronisation."""
        shown = ("forget_loss", "retain_loss", "forget_grad_norm", "retain_grad_norm")
        known = {name.replace("_", " "): self.line.get(name) for name in shown}
        text = ", ".join(f"{name} {value:.3g}" for name, value in known.items() if value is not None)
        bar.set_postfix_str(text, refresh=False)
        bar.update()

    def keep(self) -> None:
        """Make the current state the one that a divergence falls back to and that a killed run resumes from."""
        self.last_good = (self.step, copy_to_cpu(self.task.parameters))
        if self.checkpoint_path is not None:
            on_first(lambda: save_checkpoint(self.checkpoint_path, self.state(), config_hash=self.config_hash))

    def interrupt(self, name: str) -> NoReturn:
        """Save the state between two checkpoints and raise ``InterruptedRun``."""
        self.guard()
        self.keep()
        saved = self.checkpoint_path is not None
        kept = "its state is saved: repeat the same command to go on" if saved else "nothing is saved"
        raise InterruptedRun(f"stopped by {name} after step {self.step} of {self.config.steps}; {kept}")

    def state(self) -> Checkpoint:
        """Everything that the rest of the run depends on."""
        stop = self.early_stop
        groups = {**self.carried(), "best": stop.weights}
        tensors = {f"{group}/{name}": each for group, members in groups.items() for name, each in members.items()}
        scalars = {"seed": self.seed, "seconds": self.seconds(), "probe_start": self.probe_start}
        scalars |= {"checks": stop.checks, "best": stop.best, "stopped": stop.stopped}
        return Checkpoint(step=self.step, scalars=scalars, tensors=tensors | self.stepper.state_tensors())

    def carried(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by group that go from step to step beside the optimizers' states."""
        optional = {"average": self.average, "attackers": self.updater.attackers}
        found = {name: each.tensors for name, each in optional.items() if each is not None}
        return {"weights": self.task.parameters, "meter": self.meter.sums, **found}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up the state that ``state`` gave (``UsageError`` when another seed drew its batches)."""
        scalars, stop = checkpoint.scalars, self.early_stop
        if scalars["seed"] != self.seed:
            raise UsageError(f"the checkpoint was written with --seed {scalars['seed']}, not {self.seed}")

        # Weights, optimizers and running values.
        for group, members in self.carried().items():
            copy_weights(checkpoint.group(group, like=members), members)
        self.stepper.load_state_tensors(checkpoint.tensors)

        # The early stop, and where the run stands.
        stop.checks, stop.best, stop.stopped = scalars["checks"], scalars["best"], scalars["stopped"]
        if stop.best is not None:
            stop.weights = checkpoint.group("best", like=self.task.parameters)
        self.step = self.resumed_from = checkpoint.step
        self.probe_start = scalars["probe_start"]
        self.last_good = (self.step, copy_to_cpu(self.task.parameters))
        self.started = time.monotonic() - scalars["seconds"]

    def finish(self) -> LoopResult:
        """Put the result into the parameters: the best check's weights, else the average, else as they are."""
        stop = self.early_stop
        if stop.best is not None:
            copy_weights(stop.weights, self.task.parameters)
        elif self.average is not None:
            copy_weights(self.average.tensors, self.task.parameters)
        self.preview(self.step)
        return LoopResult(
            steps=self.step,
            weights_step=self.step if stop.best is None else stop.best["step"],
            averaged=self.average is not None,
            stopped_early=stop.stopped,
            resumed_from=self.resumed_from,
            checks=stop.checks,
            seconds=self.seconds(),
        )
