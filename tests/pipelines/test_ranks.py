"""Ranks in one process, where everything is the identity, and how work is cut; erase/test_ranks.py has two."""

import pytest
import torch

from pipelines import ranks
from pipelines.errors import UsageError
from pipelines.launcher import check_launch, launched_rank, local_rank, num_launched


@pytest.mark.parametrize(("count", "world"), [(7, 2), (9, 4), (3, 5), (0, 3), (64, 8)])
def test_parts_are_contiguous_and_level(monkeypatch, count, world):
    monkeypatch.setattr(ranks, "num_ranks", lambda: world)
    parts = []
    for number in range(world):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        parts.append(list(range(count)[ranks.part_of(count)]))
    assert [each for part in parts for each in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_alone_is_the_first_of_one():
    assert (ranks.rank(), ranks.num_ranks(), ranks.is_first()) == (0, 1, True)
    tensor = torch.tensor([1.0, 2.0])
    ranks.sum_over_ranks([tensor])
    ranks.copy_from_first([tensor])
    assert tensor.tolist() == [1.0, 2.0] and ranks.part_of(5) == slice(0, 5)
    assert ranks.in_parts(lambda items: torch.tensor(items), [4, 5]).tolist() == [4, 5]
    assert ranks.on_first(lambda: 3) == ranks.from_first(3) == ranks.largest(3) == 3 and ranks.gathered("a") == ["a"]
    with ranks.joined():
        assert not ranks.grouped()


def test_an_error_of_a_process_alone_is_as_it_was_raised():
    error = UsageError("no")
    with pytest.raises(UsageError) as caught, ranks.shared_errors():
        raise error
    assert caught.value is error and not hasattr(error, "__notes__")


def test_small_neighbours_are_exchanged_together(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET", 40)
    sizes = [torch.zeros(4), torch.zeros(4), torch.zeros(4), torch.zeros(100), torch.zeros(1), torch.zeros(1).double()]
    found = [[each.numel() for each in bucket] for bucket in ranks.buckets(sizes)]
    assert found == [[4, 4], [4], [100], [1], [1]]


def test_a_launcher_says_who_a_process_is(monkeypatch):
    assert (num_launched(), launched_rank(), local_rank()) == (1, 0, 0)
    for name, value in (("WORLD_SIZE", "8"), ("RANK", "5"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert (num_launched(), launched_rank(), local_rank()) == (8, 5, 1)


def test_a_launch_of_several_that_starts_one_is_refused(monkeypatch):
    """``accelerate launch --cpu --num_processes 2`` sets an address for the two and starts one."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    check_launch()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UsageError, match=r"starts one process, whatever --num_processes says: use `torchrun"):
        check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launch()
