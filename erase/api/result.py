"""A finished erasure: the model, its scores in words and numbers, its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.model import DiT

from ..config import ErasureConfig

SHOWN = ("forget_accuracy", "retain_accuracy", "neighbour_accuracy", "frechet", "recall", "forget_degenerate_rate")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What ``erase.run`` hands back."""

    model: DiT  # the erased model
    original: DiT
    scores: dict[str, Any]  # the result record; empty when the run was not scored
    config: ErasureConfig
    run_dir: Path
    seconds: float
    repeated: bool = False  # whether the run was finished before and only read

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
        from eval.words import earlier_sentence, sentence

        done = "was finished before, nothing was run again: " if self.repeated else ""
        lines = [f"{done}{self.names} erased from {self.config.model} by {self.config.method} in {self.seconds:.0f} s"]
        lines += [f"  {sentence(key, self.scores)}" for key in SHOWN if key in self.scores.get("erased", {})]
        lines += [f"  {earlier_sentence(label, self.scores)}" for label in self.scores.get("earlier", {})]
        for probe, subjects in self.scores.get("probes", {}).items():
            values = ", ".join(f"{subject} {entry['value']:.1%}" for subject, entry in subjects.items())
            lines.append(f"  after {probe.replace('_', ' ')}: {values}")
        lines.append(f"  model   {self.run_dir / 'model'}")
        if self.scores:
            lines.append(f"  report  {self.run_dir / 'report.html'}")
        return "\n".join(lines)

    def show(self) -> str:
        """The outcome as text, for a notebook's last line."""
        return self.text()
