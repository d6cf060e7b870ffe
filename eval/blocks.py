"""Fixed blocks of the images that a protocol draws: a shard is a union of blocks, and blocks in order are one pass.

A short last block is filled up before it is drawn and scored and cut afterwards, so that every block has one shape:
what a block holds depends on no shard, no order and no worker.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from pipelines.generate import Request, generate
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings

from .features import Scorer
from .metric import Batch, Context, Metric, metric_class

State = dict[str, Tensor]  # of several metrics: METRIC/sum/NAME or METRIC/rows/NAME


def blocks_of(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Requests in their order, in blocks of ``size``; only the last may be shorter."""
    return [list(requests[start : start + size]) for start in range(0, len(requests), size)]


def score_block(
    model: DiT,
    block: Sequence[Request],
    metrics: Sequence[str],
    *,
    settings: SamplerSettings,
    scorer: Scorer,
    context: Context,
    size: int,
) -> tuple[State, Tensor]:
    """The state of the metrics after one block of at most ``size`` requests, and its images (B, 3, H, W) uint8."""
    filled = [*block, *[block[-1]] * (size - len(block))]
    ((images, class_labels),) = generate(model, filled, settings, batch_size=size)
    logits, features = scorer.logits_and_features(images)
    kept = slice(len(block))
    batch = Batch(
        images=images[kept],
        class_labels=class_labels[kept],
        logits=logits[kept],
        features=features[kept],
        forget_classes=context.forget_classes,
    )
    state: State = {}
    for name in metrics:
        metric = metric_class(name)(context)
        metric.update(batch)
        state |= {f"{name}/{key}": tensor for key, tensor in metric.state().items()}
    return state, batch.images


def merge_blocks(states: Iterable[Mapping[str, Tensor]], metrics: Sequence[str], context: Context) -> list[Metric]:
    """The named metrics over all blocks, which come in the order of one pass; other metrics' states are left out."""
    merged = {name: metric_class(name)(context) for name in metrics}
    for state in states:
        for name, metric in merged.items():
            metric.absorb(own_part(state, name))
    return list(merged.values())


def own_part(state: Mapping[str, Tensor], metric: str) -> State:
    """The part of a state that belongs to one metric, as the metric names it."""
    parts = ((key.partition("/"), tensor) for key, tensor in state.items())
    return {key: tensor for (name, _, key), tensor in parts if name == metric}
