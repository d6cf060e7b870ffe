"""Which images are drawn of which model: what a shard cuts, and what several comparisons may share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.blocks import blocks_of
from eval.features import Scorer
from eval.metric import Context, metric_class, metric_names
from eval.plan import forget_requests, plan_requests
from pipelines.generate import Request
from pipelines.model import DiT
from pipelines.model_source import load_classes

from ..api.evaluating import Comparison
from .identity import file_identity, model_identity, short_hash

Side = Literal["original", "erased"]
PICTURED = 6  # images of the erased classes, and of a retained one, that the report shows


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The images of one side of a comparison: those that its protocol asks for, or those of an earlier class."""

    comparison: Comparison
    side: Side
    earlier_classes: tuple[int, ...]  # erased before: no class of the protocol's images
    label: int | None  # an earlier class whose images are drawn by themselves
    block: int  # images in a block

    def requests(self) -> list[Request]:
        """Every image in order."""
        asked = self.comparison
        if self.label is not None:
            count = asked.protocol.num_forget_images
            return forget_requests(asked.protocol.first_seed, (self.label,), num_images=count)
        return plan_requests(
            asked.protocol,
            num_classes=len(load_classes(asked.original)),
            forget_classes=asked.forget_classes,
            earlier_classes=self.earlier_classes,
        )

    def blocks(self) -> list[list[Request]]:
        """The same in blocks."""
        return blocks_of(self.requests(), self.block)

    def pictured(self) -> dict[int, list[int]]:
        """Where the images for the report stand among the requests, by class: erased ones, then the retained one."""
        if self.label is not None:
            return {}
        labels, forget = [label for label, _ in self.requests()], self.comparison.forget_classes
        retained = Counter(label for label in labels if label not in forget).most_common(1)
        places = {label: [] for label in forget}
        for place, label in enumerate(labels[:PICTURED]):
            if label in forget:
                places[label].append(place)
        for label, _ in retained:
            places[label] = [place for place, each in enumerate(labels) if each == label][:PICTURED]
        return {label: found for label, found in places.items() if found}

    def load(self) -> DiT:
        """The model."""
        return self.comparison.load_original() if self.side == "original" else self.comparison.load_erased()

    def metrics(self, scorer: Scorer) -> Sequence[str]:
        """All metrics that these images can feed; which of them a record shows is decided when it is made."""
        if self.label is not None:
            return ("forget_accuracy",)
        needs_head = {name for name in metric_names() if "inception_head" in metric_class(name).needs}
        return [name for name in metric_names() if scorer.head is not None or name not in needs_head]

    def context(self, scorer: Scorer) -> Context:
        """What the metrics know while the images are drawn: no real image yet."""
        alone = self.label is not None
        return Context(
            forget_classes=(self.label,) if alone else self.comparison.forget_classes,
            earlier_classes=() if alone else self.earlier_classes,
            num_classes=scorer.num_classes,
            seed=self.comparison.protocol.first_seed,
            inception_head=scorer.head,
        )

    def facts(self, model: str) -> dict[str, Any]:
        """Everything that the images and their scores depend on; ``model`` is the identity of the one that draws."""
        asked = self.comparison
        weights = asked.judges.classifier
        return {
            "model": model,
            "time_embedding": asked.config.time_embedding if asked.from_config and self.side == "original" else "own",
            "judged_by": [original_identity(asked), file_identity_of(weights), str(asked.judges.inception)],
            "protocol": asked.protocol.to_dict(),
            "forget_classes": list(asked.forget_classes),
            "earlier_classes": list(self.earlier_classes),
            "label": self.label,
            "block": self.block,
            "metrics": list(metric_names()),
        }


def file_identity_of(path: str | None) -> str:
    """The sha256 of a file; empty where none is named."""
    return file_identity(Path(path)) if path else ""


def original_identity(asked: Comparison) -> str:
    """The model before the erasure, by the bytes of its files."""
    vae = asked.config.vae if asked.from_config else asked.vae
    return model_identity(asked.original, vae=vae)


def shard_name(facts: dict[str, Any], first_block: int, num_blocks: int) -> str:
    """A name that only the same images of the same model have."""
    return f"shard-{short_hash([facts, first_block, num_blocks])}"
