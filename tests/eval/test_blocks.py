"""Blocks of images: in order they are one pass bit for bit; what a block holds depends on no other block."""

from dataclasses import replace

import pytest
import torch

from eval.blocks import blocks_of, merge_blocks, own_part, score_block
from eval.evaluate import results, score_model
from eval.metric import Context, metric_names
from eval.moments import Moments, frechet_distance
from eval.plan import plan_requests

SIZE = 7


@pytest.fixture
def protocol(toy):
    return replace(toy.protocol, num_forget_images=40, num_retain_images=83, num_inference_steps=4)


@pytest.fixture
def context(toy):
    return Context(
        forget_classes=(3,), num_classes=5, seed=0, reference=toy.reference,
        training_features=toy.training.without((3,)).features,
    )  # fmt: skip


@pytest.fixture
def names():
    return [name for name in metric_names() if name != "inception_score"]


@pytest.fixture
def states(toy, original, protocol, context, names):
    """The state of every block; nothing of the real images is known while they are drawn."""
    blind = replace(context, reference=None)
    blocks = blocks_of(plan_requests(protocol, num_classes=5, forget_classes=(3,)), SIZE)
    settings = {"settings": protocol.sampler_settings(), "scorer": toy.scorer, "context": blind, "size": SIZE}
    return [score_block(original, block, names, **settings)[0] for block in blocks]


def test_blocks_in_order_give_the_values_of_one_pass(toy, original, protocol, context, names, states):
    one_pass = score_model(original, names, context, protocol=protocol, scorer=toy.scorer, batch_size=SIZE)
    assert results(merge_blocks(states, names, context)) == one_pass
    fewer = merge_blocks(states, ["leakage"], context)
    assert results(fewer) == {"leakage": one_pass["leakage"]}


def test_a_short_block_is_filled_and_cut(toy, original, protocol, context):
    settings = {"settings": protocol.sampler_settings(), "scorer": toy.scorer, "context": context, "size": SIZE}
    block = [(1, 10), (2, 11), (3, 12)]
    short, images = score_block(original, block, ["retain_accuracy", "frechet"], **settings)
    full, more = score_block(original, [*block, *[(0, number) for number in range(4)]], ["frechet"], **settings)
    assert len(images) == 3 and torch.equal(images, more[:3])
    assert short["retain_accuracy/sum/images"].sum() == 2
    assert torch.equal(short["frechet/rows/features"], full["frechet/rows/features"][:2])


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_frechet_sums_of_shards_are_those_of_one_pass(toy, states, count):
    """Number, sum and outer products: equal to 1e-10 however the blocks are shared out."""
    rows = [own_part(state, "frechet")["rows/features"] for state in states]
    shards = [Moments(toy.scorer.num_features) for _ in range(count)]
    for number, features in enumerate(rows):
        shards[number % count].update(features)
    merged = Moments(toy.scorer.num_features)
    for each in shards[::-1]:
        merged.merge(each)
    whole = Moments(toy.scorer.num_features).update(torch.cat(rows))
    assert merged.n == whole.n == 83
    for found, expected in ((merged.sum, whole.sum), (merged.outer, whole.outer)):
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-10
    distances = [frechet_distance(each.gaussian(), toy.reference.gaussian) for each in (merged, whole)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-10)
