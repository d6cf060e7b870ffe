"""Scores of a model that was retrained without the erased classes: what an erasure should come to."""

from collections.abc import Mapping
from typing import Any

from eval.evaluate import choose_metrics, score_model
from eval.features import Scorer
from eval.metric import Context, metric_names
from eval.neighbours import neighbour_accuracy
from eval.protocol import Protocol
from pipelines.delta import weights_sha256
from pipelines.model import DiT

from .judging import Judges, real_reference, training_features


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
