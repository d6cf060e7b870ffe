"""Scores of a model that was retrained without the erased classes: what an erasure should come to."""

from collections.abc import Mapping
from typing import Any

from eval.evaluate import choose_metrics, score_model
from eval.features import Scorer
from eval.metric import Context, metric_names
from eval.neighbours import neighbour_accuracy
from eval.protocol import Protocol
from pipelines.delta import weights_sha256
from pipelines.errors import UsageError
from pipelines.model import DiT
from pipelines.model_source import (
    check_config,
    load_classes,
    original_path,
    read_provenance,
    resolve_folder,
    transformer_config,
)
from pipelines.text import listed

from ..config import ErasureConfig
from .judging import Judges, real_reference, training_features

SHAPE = ("num_embeds_ada_norm", "in_channels", "sample_size")  # of the transformer's configuration


def check_retrained(retrained: str, config: ErasureConfig) -> None:
    """Refuse a model that cannot stand beside this erasure as one that never saw the class.

    It has to draw the same classes from latents of the same shape, and a model of ``erase pretrain`` has to have been
    trained without the erased classes (``UsageError``). Raises ``MissingError`` where there is none.
    """
    if original_path(retrained) is None:
        resolve_folder(retrained, flag="--retrained")
    check_config(retrained)
    ours, theirs = ({name: transformer_config(each).get(name) for name in SHAPE} for each in (config.model, retrained))
    if ours != theirs:
        raise UsageError(f"--retrained {retrained} has {told(theirs)}, and {config.model} {told(ours)}")
    without, names = read_provenance(retrained).get("without"), load_classes(config.model)
    if without is None:
        return
    if seen := [names[label].name for label in config.forget_classes if names[label].name not in without]:
        lacks = listed(without) or "no class"
        raise UsageError(f"--retrained {retrained} was trained without {lacks}, so that it has seen {listed(seen)}")


def told(shape: Mapping[str, Any]) -> str:
    """A shape for a sentence."""
    return listed([f"{name} {value}" for name, value in shape.items()])


def score_retrained(
    models: Mapping[str, DiT], record: dict[str, Any], *, protocol: Protocol, scorer: Scorer, progress: bool
) -> None:
    """Put the scores of ``models["retrained"]`` into a record, measured as those that it holds.

    A model whose scores it holds already is not scored again.
    """
    original, retrained = models["original"], models["retrained"]
    made = {**retrained.provenance, "weights_sha256": weights_sha256(retrained.transformer)}
    if record["models"].get("retrained") == made:
        return
    judges = Judges(**{name: value for name, value in record["asked"].items() if name != "protocol"})
    forget, earlier = tuple(record["forget_classes"]), tuple(map(int, record.get("earlier", {})))
    removed = (*forget, *earlier)
    context = Context(
        forget_classes=forget, earlier_classes=earlier, num_classes=original.num_classes, seed=protocol.first_seed,
        reference=real_reference(original, removed, scorer=scorer, source=judges.reference),
        training_features=training_features(original, removed, scorer=scorer), inception_head=scorer.head,
    )  # fmt: skip

    chosen, _ = choose_metrics(metric_names(), context)
    bar = "evaluate retrained" if progress else ""
    values = score_model(retrained, chosen, context, protocol=protocol, scorer=scorer, progress=bar)
    if "neighbour_accuracy" in record["erased"]:
        values["neighbour_accuracy"] = neighbour_accuracy(values, record["neighbours"])
    record["retrained"] = values
    record["models"]["retrained"] = made
