"""From shards to the result record, which is the very record that one evaluation of both models gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.blocks import State, merge_blocks
from eval.evaluate import assemble, check_judges, choose_metrics, results
from eval.metric import NO_FEATURES, Context, metric_names
from eval.reference import Reference, reference_from_file
from pipelines.model_source import read_provenance

from ..api.evaluating import Comparison
from ..api.judging import reference_without
from ..api.scoring import asked_for
from .draw import Draw
from .loaded import REAL, TRAINING, Loaded
from .shard_file import Shard

SIDES = ("original", "erased")
Drawn = Sequence[tuple[Draw, Shard]]


def merged_record(
    asked: Comparison, shards: Drawn, loaded: Loaded, *, earlier_classes: tuple[int, ...], metrics: Sequence[str]
) -> dict[str, Any]:
    """The record of a comparison; no ``metrics`` means all whose needs are met."""
    context = context_of(asked, loaded, earlier_classes)
    chosen, skipped = choose_metrics(metrics or metric_names(), context)
    scores = {side: results(merge_blocks(states_of(shards, side, None), chosen, context)) for side in SIDES}
    original = loaded.original(asked)
    record = assemble(
        scores,
        protocol=asked.protocol,
        classifier=loaded.scorer(asked).name,
        context=context,
        neighbours=asked.judges.neighbours,
        skipped=skipped,
        class_names=original.classes.labels,
        provenance={
            "original": original.provenance,
            "erased": {"source": asked.model, **read_provenance(asked.model)},
        },
    )
    return {
        **record,
        "earlier": {str(label): merged_earlier(shards, label, loaded.scorer(asked)) for label in earlier_classes},
        "asked": asked_for(asked.protocol, asked.judges),
    }


def context_of(asked: Comparison, loaded: Loaded, earlier_classes: tuple[int, ...]) -> Context:
    """What the metrics know once the real images are at hand."""
    scorer, removed = loaded.scorer(asked), (*asked.forget_classes, *earlier_classes)
    reference, training = reference_of(asked, loaded, removed), loaded.observations(asked, TRAINING)
    check_judges(scorer, reference, num_classes=loaded.original(asked).num_classes)
    return Context(
        forget_classes=asked.forget_classes,
        earlier_classes=earlier_classes,
        reference=reference,
        num_classes=scorer.num_classes,
        training_features=NO_FEATURES if training is None else training.without(removed).features,
        inception_head=scorer.head,
        seed=asked.protocol.first_seed,
    )


def reference_of(asked: Comparison, loaded: Loaded, removed: tuple[int, ...]) -> Reference:
    """Real images of the retained classes."""
    source, observations = asked.judges.reference, loaded.observations(asked, REAL)
    if observations is None:
        return reference_from_file(Path(source), feature_space=loaded.scorer(asked).feature_space)
    return reference_without(observations, removed, source=source)


def states_of(shards: Drawn, side: str, label: int | None) -> list[State]:
    """The states of the blocks of one side in the order of one pass."""
    blocks: dict[int, State] = {}
    for draw, shard in shards:
        if (draw.side, draw.label) == (side, label):
            blocks |= shard.blocks
    return [blocks[number] for number in sorted(blocks)]


def merged_earlier(shards: Drawn, label: int, scorer: Any) -> Mapping[str, Any]:
    """Forget accuracy of both models on a class that was erased before."""
    draw = next(draw for draw, _ in shards if draw.label == label)
    found = {}
    for side in SIDES:
        (metric,) = merge_blocks(states_of(shards, side, label), ["forget_accuracy"], draw.context(scorer))
        entry = metric.compute()["forget_accuracy"].to_dict()
        found[side] = {key: entry[key] for key in ("value", "low", "high", "n")}
    return found
