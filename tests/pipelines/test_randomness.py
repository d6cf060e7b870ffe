"""Counter-based random streams: each differs from the others, and epochs cover every item."""

import pytest
import torch

from pipelines.randomness import epoch_indices, generator, stream_seed


def test_streams_differ() -> None:
    """Seeds, names, indices and depths each make another stream; none is repeated among 20,000."""
    paths = [(seed, name, index) for seed in range(2) for name in ("noise", "labels") for index in range(5000)]
    seeds = {stream_seed(*path) for path in paths}
    assert len(seeds) == len(paths) and min(seeds) >= 0 and max(seeds) < 2**63
    assert stream_seed(0, "noise", 1) != stream_seed(0, "noise") != stream_seed(0)


def test_a_stream_is_the_same_everywhere() -> None:
    """A golden value: a change of the scheme would silently change every published result."""
    assert stream_seed(0, "transformer noise", 3) == 4743747524774441680
    assert torch.randn(2, generator=generator(7, "a")).tolist() == torch.randn(2, generator=generator(7, "a")).tolist()


def test_streams_are_uncorrelated() -> None:
    """Neighbouring steps of one stream and equal steps of two."""
    draws = torch.stack([torch.randn(4000, generator=generator(0, name, 5 + step)) for name in "ab" for step in (0, 1)])
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 4 / 4000**0.5


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    epoch_indices(10, 3, 4, seed=0, stream="s")
    generator(0, "noise", 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("num_items", "batch_size"), [(10, 5), (10, 3), (7, 4), (3, 8), (1, 2), (5, 5)])
def test_every_item_once_per_epoch(num_items: int, batch_size: int) -> None:
    """Batches that straddle epochs, and batches larger than an epoch, included."""
    steps = 6 * num_items
    batches = [epoch_indices(num_items, batch_size, step, seed=1, stream="s") for step in range(steps)]
    assert {len(batch) for batch in batches} == {batch_size}
    for epoch in torch.cat(batches).split(num_items):
        assert sorted(epoch.tolist()) == list(range(num_items))


def test_epochs_are_shuffled_anew() -> None:
    first, second = (epoch_indices(50, 50, step, seed=0, stream="s").tolist() for step in (0, 1))
    assert first != second != sorted(second)
    assert epoch_indices(50, 50, 0, seed=0, stream="other").tolist() != first
    assert epoch_indices(50, 50, 0, seed=1, stream="s").tolist() != first


def test_a_batch_is_a_function_of_its_step() -> None:
    """Step 17 does not need the 16 before it, which is what resuming rests on."""
    alone = epoch_indices(10, 3, 17, seed=0, stream="s")
    in_turn = [epoch_indices(10, 3, step, seed=0, stream="s") for step in range(18)]
    assert torch.equal(alone, in_turn[17])
