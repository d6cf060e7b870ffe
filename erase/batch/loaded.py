"""What a worker holds in memory between two units of work: the models, the scorer and the real images of the last."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.features import Scorer
from eval.moments import read_npz
from eval.reference import Observations, load_observations, save_observations
from pipelines.errors import MissingError
from pipelines.model import DiT
from pipelines.model_source import read_provenance
from pipelines.sources import trained_on_digits

from ..api.evaluating import Comparison
from ..api.judging import protocol_scorer, real_observations, training_observations
from .draw import Draw, original_identity
from .folder import BatchDir
from .identity import file_identity, model_identity, short_hash, while_unchanged

REAL, TRAINING = "real", "training"


class Loaded:
    """Each thing is loaded when it is first needed and held until another of its kind takes its place."""

    def __init__(self, folder: BatchDir) -> None:
        self.folder = folder
        self.held: dict[str, tuple[Any, Any]] = {}

    def keep(self, place: str, key: Any, make: Callable[[], Any]) -> Any:
        """What is held in a place under a key; made where the place holds something else."""
        if place not in self.held or self.held[place][0] != key:
            self.held.pop(place, None)  # first: two large models at once may not fit
            self.held[place] = (key, make())
        return self.held[place][1]

    def drop_models(self) -> None:
        """Give the memory of models back, for work that loads its own."""
        self.held.clear()

    def original(self, asked: Comparison) -> DiT:
        """The model before the erasure."""
        key = (original_identity(asked), asked.from_config and asked.config.time_embedding, str(asked.device))
        return self.keep("original", key, asked.load_original)

    def model(self, draw: Draw) -> DiT:
        """The model that draws."""
        if draw.side == "original":
            return self.original(draw.comparison)
        source = draw.comparison.model
        return self.keep("erased", (source, model_identity(source, vae=draw.comparison.vae)), draw.load)

    def scorer(self, asked: Comparison) -> Scorer:
        """What recognises classes and gives features."""
        key = (original_identity(asked), asked.protocol, asked.judges.classifier, asked.judges.inception)
        return self.keep("scorer", key, lambda: protocol_scorer(self.original(asked), asked.protocol, asked.judges))

    def observations(self, asked: Comparison, kind: str) -> Observations | None:
        """Real images of all classes seen through the scorer; None where there are none that can be taken apart."""
        if kind not in kept_kinds(asked):
            if kind == TRAINING:
                return None
            return real_observations(self.original(asked), scorer=self.scorer(asked), source=asked.judges.reference)
        path = observations_path(self.folder, asked, kind)
        names = self.original(asked).classes.labels
        return self.keep(kind, path, lambda: load_observations(path, scorer=self.scorer(asked), class_names=names))

    def keep_observations(self, asked: Comparison, kind: str) -> None:
        """Look at real images once for the whole batch."""
        original, scorer = self.original(asked), self.scorer(asked)
        if kind == REAL:
            found = real_observations(original, scorer=scorer, source=asked.judges.reference)
        else:
            found = training_observations(original, scorer=scorer)
        path, names = observations_path(self.folder, asked, kind), original.classes.labels
        save_observations(found, path, classifier=scorer.name, class_names=names, meta={"kind": kind})


def kept_kinds(asked: Comparison) -> list[str]:
    """The real images that are looked at for the batch: not those whose features are in a file already."""
    source = asked.judges.reference
    kinds = [] if source and source.endswith(".npz") else [REAL]
    return [*kinds, TRAINING] if trained_on_digits(read_provenance(asked.original)) else kinds


@while_unchanged(absent=False)
def is_kept(path: Path) -> bool:
    """Whether observations are there and whole."""
    try:
        return "features" in read_npz(path, "features")[0]
    except MissingError:
        return False


def observations_path(folder: BatchDir, asked: Comparison, kind: str) -> Path:
    """The file that keeps what one scorer sees in one set of real images."""
    judges, source = asked.judges, asked.judges.reference if kind == REAL else None
    facts = [
        original_identity(asked),
        asked.protocol.classifier,
        asked.protocol.features,
        judges.classifier and file_identity(Path(judges.classifier)),
        judges.inception,
        reference_identity(source),
    ]
    return folder.shared_dir / f"{kind}-{short_hash(facts)}.npz"


def reference_identity(source: str | None) -> str:
    """A reference by its bytes where it is a file; a folder by the names, sizes and times of its files."""
    path = Path(source or "")
    if source and path.is_file():
        return file_identity(path)
    if source and path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        stats = [(each.relative_to(path).as_posix(), each.stat().st_size, each.stat().st_mtime_ns) for each in files]
        return short_hash(stats)
    return source or ""
