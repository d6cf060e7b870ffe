"""Digit models under every probe as resumable jobs: an erased one, and those that stand beside it for its class.

The original, ``embedding_reset`` and the retrained model do not depend on the erasure. They are the yardsticks: each is
attacked once for a class and a budget, and its line is kept in ``results/yardsticks.jsonl`` for every table. A change
of the code of an attack is not seen: it asks for new lines, of erased models and yardsticks alike.
"""

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from benchmarks.erasures import RESULTS, SCORES, scores
from benchmarks.lines import Line, finished, keep, kept_lines
from erase.config import config_hash
from erase.configure import DEFAULT_METHOD, configure
from eval.probe import AMOUNTS, Amount, Budget, embedding_reset, probe_names
from eval.protocol import named
from eval.recovery import recovery
from pipelines.model import DiT
from pipelines.pretrain.recipe import Recipe

if TYPE_CHECKING:
    from erase.api.result import Result

MODEL = "digits"
FLOORS = (3, 8, 1, 5, 9, 4)  # the classes with a retrained model
SIDES = ("dual", "shared")
YARDSTICKS = RESULTS / "yardsticks.jsonl"
CONTROLS = RESULTS / "controls.jsonl"
PROTOCOL = replace(named("small"), name="probe table", precision="bf16", num_forget_images=500, num_retain_images=500)


class Attackable(Protocol):
    """A frozen dataclass whose line in a result file is found by its key."""

    @property
    def key(self) -> str:
        """Identifies the line under today's defaults and budgets."""

    def attacked(self, work: Path) -> Line:
        """Make the model below ``work``, unless it is there, and attack it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An erased model to attack."""

    method: str
    forget_class: int
    optimizers: str  # "" for a method that takes no steps of the engine
    budget: str

    @property
    def name(self) -> str:
        """The method and its optimizers, as a row of the table is called."""
        return " ".join(filter(None, (self.method, self.optimizers)))

    @property
    def is_default(self) -> bool:
        """Whether ``erase run`` does this when it is told nothing."""
        return (self.method, self.optimizers) == (DEFAULT_METHOD, SIDES[0])

    @property
    def options(self) -> dict[str, Any]:
        """The settings that are not the method's defaults."""
        return {"optimizers": self.optimizers} if self.optimizers else {}

    @property
    def config_hash(self) -> str:
        """Everything that the defaults say today."""
        return configure(MODEL, [self.forget_class], method=self.method, options=self.options).hash

    @property
    def key(self) -> str:
        """Identifies the subject under today's defaults and today's budget."""
        return json.dumps([asdict(self), self.config_hash, config_hash(asdict(AMOUNTS[self.budget]))])

    @property
    def yardsticks(self) -> list["Yardstick"]:
        """The models that its attacks are compared with."""
        found = ("original", "embedding_reset", *(["retrained"] if self.forget_class in FLOORS else []))
        return [Yardstick(who=who, forget_class=self.forget_class, budget=self.budget) for who in found]

    def run(self, work: Path) -> "Result":
        """Make and score the model: an ordinary run below ``work``."""
        import erase

        folder = work / "runs" / f"{self.forget_class}-{self.name.replace(' ', '-')}-{self.config_hash[:6]}"
        with alone(folder):
            return erase.run(
                MODEL, self.forget_class, method=self.method, options=self.options, output_dir=folder,
                protocol=PROTOCOL, memory="fixed", progress=False,
            )  # fmt: skip

    def attacked(self, work: Path) -> Line:
        """Make, score and attack the model."""
        return self.attacked_by(self.class_attacked, work)

    def attacked_by(self, attack: Callable[["Result"], Line], work: Path) -> Line:
        """Make and score the model, and attack it; where it diverged, the line says so."""
        from pipelines.errors import DivergedError

        try:
            result = self.run(work)
        except DivergedError as error:
            return {"diverged": str(error)}
        return attack(result)

    def class_attacked(self, result: "Result") -> Line:
        """Scores of the model and every attack on its erased class."""
        budget = budget_against(self.forget_class, AMOUNTS[self.budget])
        return {
            "scores": {name: result.scores["erased"][name]["value"] for name in SCORES},
            "probes": attack_all(result.model, self.forget_class, budget),
            "seconds": result.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class Control:
    """An erased model, attacked for a class that it was to keep: where that fails, model or attack is broken."""

    subject: Subject

    @property
    def key(self) -> str:
        """That of the erased model, told apart from it."""
        return json.dumps(["control", self.subject.key])

    def attacked(self, work: Path) -> Line:
        """Make and score the model, and attack its nearest neighbour."""
        return self.subject.attacked_by(self.neighbour_attacked, work)

    def neighbour_attacked(self, result: "Result") -> Line:
        """Every attack on the class."""
        from erase.api.scoring import control_class

        budget = budget_against(self.subject.forget_class, AMOUNTS[self.subject.budget])
        label = control_class(result.scores, budget)
        return {"control_class": label, "probes": attack_all(result.model, label, budget)}


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """A model that stands beside every erased one of its class."""

    who: Literal["original", "embedding_reset", "retrained"]
    forget_class: int
    budget: str

    @property
    def key(self) -> str:
        """Identifies the yardstick under today's budget, probes, protocol and recipe."""
        facts = {
            "amount": asdict(AMOUNTS[self.budget]),
            "probes": probe_names(),
            "protocol": PROTOCOL.to_dict(),
            "recipe": asdict(Recipe()) if self.who == "retrained" else None,
        }
        return json.dumps([asdict(self), config_hash(facts)])

    def attacked(self, work: Path) -> Line:
        """Score and attack the model; the retrained one is trained below ``work``, unless it is there."""
        from pipelines.model import load

        budget = budget_against(self.forget_class, AMOUNTS[self.budget])
        original = model = budget.original
        if self.who == "retrained":
            model = load(make_floor(work, self.forget_class))
        elif self.who == "embedding_reset":
            model = embedding_reset(original, self.forget_class)
        # The row reset is attacked alone: its other rows are the original's.
        scored = self.who != "embedding_reset"
        return {
            "scores": scores(original, model, self.forget_class, PROTOCOL, scorer=budget.scorer) if scored else {},
            "probes": attack_all(model, self.forget_class, budget),
        }


def budget_against(forget_class: int, amount: Amount) -> Budget:
    """What an attacker of a digits model has: all real images of the run, and the scores' own protocol and scorer."""
    from erase.api.probing import budget_of
    from pipelines.model import load

    asked = {"asked": {"protocol": asdict(PROTOCOL)}}
    config = configure(MODEL, [forget_class], method="embedding_reset")
    return budget_of(load(MODEL), asked, config, amount=amount, data=None, progress=False)


def attack_all(model: DiT, forget_class: int, budget: Budget) -> dict[str, Any]:
    """The outcome of every probe by its name."""
    from erase.api.probing import kept_attack

    return {name: kept_attack(name, model, forget_class, budget).result.to_dict() for name in probe_names()}


def make_floor(work: Path, forget_class: int) -> Path:
    """Train the model that never saw the class, unless it is there; a training that was killed goes on."""
    from pipelines.model import load
    from pipelines.pretrain.train import pretrain

    parts, folder = load(MODEL), work / "retrained" / str(forget_class)
    without = [parts.classes[forget_class].name]
    with alone(folder):
        pretrain(MODEL, folder, recipe=Recipe(), without=without, parts_of=parts, progress=False)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes what goes into this folder: attacks of both budgets share their model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def on_one_thread(job: Attackable, work: Path) -> Line:
    """Carry out a job."""
    import torch

    torch.set_num_threads(1)
    return job.attacked(work)


def run_all(wanted: Iterable[Subject], path: Path, work: Path, *, workers: int) -> dict[Subject, Line]:
    """Attack what has no line yet under today's defaults; returns the lines of all, each with its yardsticks."""
    wanted = list(wanted)
    files: dict[Attackable, Path] = {}
    for subject in wanted:
        files |= {subject: path, **dict.fromkeys(subject.yardsticks, YARDSTICKS)}
    done = attack_missing(files, work, workers=workers)
    return {subject: joined(subject, done) for subject in wanted}


def attack_missing(files: Mapping[Attackable, Path], work: Path, *, workers: int) -> dict[str, Line]:
    """Attack what has no line in the file that is to hold it; returns all lines of the files by key."""
    done = {key: result for path in {*files.values()} for key, result in by_key(path).items()}
    keys = {job: job.key for job in files}
    todo = [job for job, key in keys.items() if key not in done]
    for job, result in finished(todo, partial(on_one_thread, work=work), workers=workers, title="models"):
        done[keys[job]] = result
        keep(files[job], {"key": keys[job], "subject": asdict(job), "result": result})
    return done


def kept(wanted: Iterable[Subject], path: Path) -> dict[Subject, Line]:
    """Those of the subjects that have been attacked under today's defaults, with their yardsticks."""
    done = by_key(path) | by_key(YARDSTICKS)
    found = [each for each in wanted if {job.key for job in (each, *each.yardsticks)} <= done.keys()]
    return {subject: joined(subject, done) for subject in found}


def by_key(path: Path) -> dict[str, Line]:
    """The results of a file."""
    return {line["key"]: line["result"] for line in kept_lines(path)}


def joined(subject: Subject, done: Mapping[str, Line]) -> Line:
    """Scores, probes and recovery of an erased model and of its yardsticks, as ``erase probe`` records them."""
    line = done[subject.key]
    if "diverged" in line:
        return line
    models = {**{each.who: done[each.key] for each in subject.yardsticks}, "erased": line}
    probes = {name: {who: each["probes"][name] for who, each in models.items()} for name in line["probes"]}
    return {
        **line,
        "scores": {who: each["scores"] for who, each in models.items() if each["scores"]},
        "probes": probes,
        "recovery": {name: recovery(rows) for name, rows in probes.items()},
    }
