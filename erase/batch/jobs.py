"""What a jobs file asks for: runs to make, models that are there, protocols, metrics, probes and where to work."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.metric import displays, metric_class
from eval.probe import AMOUNTS, load_probe, probe_names
from eval.protocol import Protocol, named
from pipelines.errors import UsageError
from pipelines.model_source import EMBEDDED

from ..api import DEFAULT_METHOD
from ..api.judging import Judges
from ..method import method_class
from .located import Located, at, read_located

EXECUTORS = ("local", "processes", "slurm")
PROTOCOL_KEYS = ("name", *(each.name for each in dataclasses.fields(Protocol) if each.name not in ("name", "note")))
RUN_KEYS = ("model", "methods", "classes", "seeds", "settings", "preset", "data")
MODEL_KEYS = ("path", "classes", "original", "vae", "method", "seed")
PROBE_KEYS = ("names", "budget", "methods", "seeds")
EXECUTOR_KEYS = ("name", "workers", "partition", "minutes", "gpus", "cpus", "memory_gb", "account", "setup")
JUDGE_KEYS = ("reference", "classifier", "inception")
KEYS = ("output", "protocols", "metrics", "columns", *JUDGE_KEYS, "runs", "models", "probes", "executor", "device",
        "block", "shard_blocks", "keep_images")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs to make: every method with every class list, seed and setting."""

    model: Located
    methods: Sequence[Located]
    classes: Sequence[Located]  # each a class, or a list of classes that are erased together
    seeds: Sequence[int]
    settings: Sequence[Mapping[str, Any]]  # engine and method options by field name
    preset: str
    data: str | None
    place: Located


@dataclass(frozen=True, kw_only=True)
class Models:
    """Models that are there already."""

    paths: Sequence[Located]
    classes: Sequence[Located]
    original: Located | None
    vae: str
    method: str  # of the table's row; empty: what the model's files say
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Attacks on the runs of some methods and seeds; none named means all."""

    names: tuple[str, ...]
    budget: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Executor:
    """Where the work is done; the fields below ``workers`` are those of a SLURM job."""

    name: str = "local"
    workers: int = 1
    partition: str = ""
    minutes: int = 60
    gpus: int = 0
    cpus: int = 1
    memory_gb: int = 0
    account: str = ""
    setup: tuple[str, ...] = ()  # shell lines before the work

    @property
    def num_workers(self) -> int:
        """How many workers there are: one in this process, whatever the other executors were told."""
        return 1 if self.name == "local" else self.workers


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """A jobs file, each part checked by itself."""

    path: Path
    output: Path
    protocols: Sequence[tuple[Protocol | None, Located]]  # None: the one that fits the model
    metrics: tuple[str, ...]  # none: all
    columns: tuple[str, ...]
    judges: Mapping[str, Located]
    runs: Sequence[Runs] = ()
    models: Sequence[Models] = ()
    probes: Sequence[Probes] = ()
    executor: Executor = field(default_factory=Executor)
    device: str = "auto"
    block: int = 50  # images that are drawn and scored at once
    shard_blocks: int = 5
    keep_images: bool = False

    def judged_by(self) -> Judges:
        """Where the parts that protocols name are found."""
        return Judges(**{name: here(self.path, each.text(name)) for name, each in self.judges.items()})


def here(jobs_path: Path, name: str) -> str:
    """A path as the jobs file means it: beside the file where that exists, else as it stands."""
    beside = jobs_path.absolute().parent / name
    return str(beside) if name not in EMBEDDED and beside.exists() else name


def read_jobs(path: Path) -> Jobs:
    """A jobs file (``UsageError`` and ``MissingError`` name file and line)."""
    root = read_located(path)
    given = root.mapping(KEYS, what="a jobs file")
    if not {"runs", "models"} & set(given):
        raise root.refusal("a jobs file needs runs to make or models to score")
    numbers = {name: given[name].whole(name, least=1) for name in ("block", "shard_blocks") if name in given}
    if "keep_images" in given:
        numbers["keep_images"] = given["keep_images"].choice("keep_images", (True, False))
    if "device" in given:
        numbers["device"] = given["device"].text("device")
    probes = [read_probes(each) for each in entries(given, "probes")]
    if len({each.budget for each in probes}) > 1:
        raise given["probes"].refusal("a run keeps one outcome of an attack: give all probes the same budget")
    return Jobs(
        path=path,
        output=path.absolute().parent / (given["output"].text("output") if "output" in given else path.stem),
        protocols=read_protocols(given.get("protocols")) or [(None, root)],
        metrics=checked_names(given.get("metrics"), metric_class),
        columns=read_columns(given.get("columns")),
        judges={name: given[name] for name in JUDGE_KEYS if name in given},
        runs=[read_runs(each) for each in entries(given, "runs")],
        models=[read_models(each) for each in entries(given, "models")],
        probes=probes,
        executor=read_executor(given["executor"]) if "executor" in given else Executor(),
        **numbers,
    )


def entries(given: Mapping[str, Located], key: str) -> Sequence[Located]:
    """The members of a list, none where the key is not given."""
    return given[key].entries() if key in given else ()


def read_protocols(located: Located | None) -> list[tuple[Protocol, Located]]:
    """Names, or a name with settings to change; a list of values stands for one protocol each."""
    found = []
    for entry in located.entries() if located else ():
        if not isinstance(entry.value, dict):
            with at(entry):
                found.append((named(entry.text("a protocol")), entry))
            continue
        given = dict(entry.mapping(PROTOCOL_KEYS, what="a protocol"))
        if "name" not in given:
            raise entry.refusal("a protocol needs a name: the one that its settings change")
        with at(given["name"]):
            base = named(given.pop("name").text("name"))
        for changes in grid(given):
            with at(entry):
                found.append((dataclasses.replace(base, **changes), entry))
    return found


def grid(given: Mapping[str, Located]) -> list[dict[str, Any]]:
    """Every combination of settings, where a list of values stands for one each."""
    values = [[each.plain() for each in located.entries()] for located in given.values()]
    return [dict(zip(given, chosen, strict=True)) for chosen in itertools.product(*values)]


def checked_names(located: Located | None, load: Any) -> tuple[str, ...]:
    """Names that ``load`` knows (``UsageError``)."""
    names = []
    for entry in located.entries() if located else ():
        with at(entry):
            load(entry.value)
        names.append(entry.value)
    return tuple(names)


def read_columns(located: Located | None) -> tuple[str, ...]:
    """The values that the table shows of each class: both accuracies and the Frechet distance unless named."""
    if located is None:
        return ("forget_accuracy", "retain_accuracy", "frechet")
    return tuple(each.choice("a column", tuple(displays())) for each in located.entries())


def read_runs(entry: Located) -> Runs:
    """One entry of ``runs``."""
    given = entry.mapping(RUN_KEYS, what="an entry of runs")
    for key in ("model", "classes"):
        if key not in given:
            raise entry.refusal(f"an entry of runs needs {key}")
    methods = given["methods"].entries() if "methods" in given else [Located(DEFAULT_METHOD, entry.path, entry.line)]
    for method in methods:
        with at(method):
            method_class(method.text("a method"))
    seeds = given["seeds"].entries() if "seeds" in given else []
    settings = given["settings"].mapping(what="settings") if "settings" in given else {}
    if "seed" in settings:
        raise settings["seed"].refusal("seeds are given as seeds of the entry, not among its settings")
    return Runs(
        model=given["model"],
        methods=methods,
        classes=given["classes"].entries(),
        seeds=[each.whole("a seed", least=0) for each in seeds] or [0],
        settings=grid(settings),
        preset=given["preset"].text("preset") if "preset" in given else "default",
        data=here(entry.path, given["data"].text("data")) if "data" in given else None,
        place=given.get("settings", entry),
    )


def read_models(entry: Located) -> Models:
    """One entry of ``models``."""
    given = entry.mapping(MODEL_KEYS, what="an entry of models")
    if "path" not in given:
        raise entry.refusal("an entry of models needs a path")
    return Models(
        paths=given["path"].entries(),
        classes=given["classes"].entries() if "classes" in given else (),
        original=given.get("original"),
        vae=here(entry.path, given["vae"].text("vae")) if "vae" in given else "",
        method=given["method"].text("method") if "method" in given else "",
        seed=given["seed"].whole("seed", least=0) if "seed" in given else None,
    )


def read_probes(entry: Located) -> Probes:
    """One entry of ``probes``."""
    given = entry.mapping(PROBE_KEYS, what="an entry of probes")
    return Probes(
        names=checked_names(given.get("names"), load_probe) or probe_names(),
        budget=given["budget"].choice("budget", tuple(AMOUNTS)) if "budget" in given else "quick",
        methods=checked_names(given.get("methods"), method_class),
        seeds=tuple(each.whole("a seed", least=0) for each in entries(given, "seeds")),
    )


def read_executor(entry: Located) -> Executor:
    """The part ``executor``; a name alone is one too."""
    if not isinstance(entry.value, dict):
        return Executor(name=entry.choice("executor", EXECUTORS))
    given = entry.mapping(EXECUTOR_KEYS, what="an executor")
    least = {"workers": 1, "minutes": 1, "gpus": 0, "cpus": 1, "memory_gb": 1}
    read: dict[str, Any] = {key: given[key].whole(key, least=least[key]) for key in least if key in given}
    read |= {key: given[key].text(key) for key in ("partition", "account") if key in given}
    if "name" in given:
        read["name"] = given["name"].choice("name", EXECUTORS)
    if "setup" in given:
        read["setup"] = tuple(each.text("a line of setup") for each in given["setup"].entries())
    return Executor(**read)


def with_executor(jobs: Jobs, *, name: str | None, workers: int | None) -> Jobs:
    """The jobs with the executor and the number of workers of the command line, where they are given."""
    chosen = dataclasses.replace(jobs.executor, **({"name": name} if name else {}))
    chosen = dataclasses.replace(chosen, **({"workers": workers} if workers else {}))
    if workers and workers > 1 and chosen.name == "local":
        raise UsageError(f"--workers {workers} has no effect with --executor local: give processes or slurm")
    return dataclasses.replace(jobs, executor=chosen)
