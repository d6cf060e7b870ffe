"""A finished erasure: the model, its scores in words, numbers and pictures, its folder."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import MissingError, UsageError
from pipelines.model import DiT
from pipelines.progress import in_notebook

from ..config import ErasureConfig
from ..rundir import RunDir

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = (
    "forget_accuracy", "forget_accuracy_any", "retain_accuracy", "neighbour_accuracy", "frechet", "recall",
    "forget_degenerate_rate",
)  # fmt: skip
UNSCORED = "--protocol none leaves no scores; run it again with a protocol, which scores what is erased already"


class Unscored(dict[str, Any]):
    """The record of a run that was not scored: empty, and whoever asks it for a score is told what to do."""

    def __missing__(self, key: str) -> Any:
        raise UsageError(f"there is no {key!r}: {UNSCORED}")


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """What ``erase.run`` hands back; in a notebook it shows itself with pictures."""

    model: DiT  # the erased model
    original: DiT
    scores: dict[str, Any]  # the result record; ``Unscored`` when the run was not scored
    config: ErasureConfig
    run_dir: Path
    seconds: float
    repeated: bool = False  # whether the run was finished before and only read

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        from eval.result_view import render_result

        if not self.scores:
            return f"<pre>{escape(self.text())}</pre>"
        folder = RunDir(self.run_dir)
        samples = {"original": folder.samples_dir / "before.png", "erased": folder.samples_dir / "after.png"}
        return render_result(self.scores, samples=samples, previews=folder.previews())

    @property
    def names(self) -> str:
        """The erased classes by name."""
        return ", ".join(self.original.classes[index].name for index in self.config.forget_classes)

    def summary(self) -> dict[str, Any]:
        """The one object that ``--json`` prints."""
        return {
            "run_dir": str(self.run_dir),
            "erased": [self.original.classes[index].name for index in self.config.forget_classes],
            "config": self.config.as_dict(),
            "seconds": self.seconds,
            "scores": self.scores,
        }

    def text(self) -> str:
        """The outcome for a terminal."""
        from eval.probe_parts import class_words
        from eval.words import attacked_name, behind, caution, earlier_sentence, sentence

        done = "was finished before, nothing was run again: " if self.repeated else ""
        lines = [f"{done}{self.names} erased from {self.config.model} by {self.config.method} in {self.seconds:.0f} s"]
        lines += [f"  {sentence(key, self.scores)}" for key in SHOWN if key in self.scores.get("erased", {})]
        lines += [f"  {earlier_sentence(label, self.scores)}" for label in self.scores.get("earlier", {})]
        if self.scores and (told := caution(self.scores)):
            lines.append(f"  {told}")
        for probe, subjects in self.scores.get("probes", {}).items():
            values = ", ".join(f"{subject} {entry['value']:.1%}" for subject, entry in subjects.items())
            lines.append(f"  after {behind(probe.replace('_', ' '), attacked_name(self.scores, subjects))}: {values}")
            lines += [f"    {words}" for words in [class_words(self.scores, probe)] if words]
        lines.append(f"  model   {self.run_dir / 'model'}")
        if self.scores:
            lines.append(f"  report  {self.run_dir / 'report.html'}")
        return "\n".join(lines)

    def show(self) -> None:
        """The outcome with its pictures in a notebook, in words in a terminal."""
        if in_notebook():
            from IPython.display import display

            display(self)
        else:
            print(self.text())

    def to_pandas(self) -> "DataFrame":
        """One row for each model and value: scores, then attacks, with 95 % interval, images, direction and unit.

        Raises ``UsageError`` for a run that was not scored and ``MissingError`` without pandas.
        """
        from eval.tidy import COLUMNS, tidy_rows

        if not self.scores:
            raise UsageError(f"there is no table: {UNSCORED}")
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise MissingError("to_pandas needs an extra: pip install 'dit-erase[notebook]'") from error
        return DataFrame(tidy_rows(self.scores), columns=COLUMNS)
