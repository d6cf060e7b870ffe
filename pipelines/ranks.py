"""The processes of one launch as ranks: the part of each, what they add up, and what the first does for all.

A process that was started alone is rank 0 of 1, and everything here then hands back what it was given. All ranks take
the same steps in the same order; whatever decides about a step is therefore decided together or by rank 0.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import ACTIONABLE, TOLD, LostProcessError, UsageError
from .launcher import check_launch, num_launched

Value = TypeVar("Value")
PATIENCE = timedelta(days=7)  # for one another: rank 0 may score for days
LAST_WORDS = timedelta(minutes=5)  # for what rank 0 still writes when a run ends early
FAREWELL = timedelta(seconds=10)  # for the others to read that it is written: rank 0 holds the place where they meet
BUCKET = 1 << 25  # bytes of small tensors that are exchanged together
ALONE = ContextVar("alone", default=False)  # inside ``on_first``
STORE: list[dist.Store] = []  # where the ranks of this launch met


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes of this launch are one group; where they are already, or there is one only, none is made.

    Raises ``UsageError`` for a launch that cannot make a group.
    """
    check_launch()
    if num_launched() == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store, rank, size = next(dist.rendezvous("env://"))
    STORE[:] = [dist.PrefixStore("ends", store)]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    yield
    dist.destroy_process_group()


def grouped() -> bool:
    """Whether this process is one of several that act together."""
    return dist.is_available() and dist.is_initialized() and not ALONE.get()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if grouped() else 0


def num_ranks() -> int:
    """How many processes act together."""
    return dist.get_world_size() if grouped() else 1


def is_first() -> bool:
    """Whether this is the process that writes, prints and keeps caches."""
    return rank() == 0


def part_of(count: int) -> slice:
    """This rank's contiguous part of ``count`` things; the parts of two ranks differ by one at most."""
    return slice(count * rank() // num_ranks(), count * (rank() + 1) // num_ranks())


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, of one shape and dtype on all ranks, by its sum over them: the same bits everywhere."""
    if num_ranks() == 1:
        return
    with peers():
        for bucket in buckets(tensors):
            flat = torch.cat([each.flatten() for each in bucket]) if len(bucket) > 1 else bucket[0].contiguous()
            dist.all_reduce(flat)
            if flat is bucket[0]:
                continue
            for each, summed in zip(bucket, flat.view(-1).split([each.numel() for each in bucket]), strict=True):
                each.copy_(summed.view(each.shape))


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype and device, up to ``BUCKET`` bytes: an exchange costs more than a small tensor."""
    bucket: list[Tensor] = []
    for each in tensors:
        size = sum(held.nbytes for held in bucket) + each.nbytes
        if bucket and (size > BUCKET or (each.dtype, each.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket


def in_parts(compute: Callable[[Any], Tensor], items: Any) -> Tensor:
    """``compute(items)``, one row for each item, of which every rank computes a part; each then has all rows, in order.

    ``items`` is anything that a slice cuts. Fewer items than ranks are computed by every rank.
    """
    if len(items) < num_ranks() or num_ranks() == 1:
        return compute(items)
    mine = part_of(len(items))
    rows = compute(items[mine])
    whole = rows.new_zeros(len(items), *rows.shape[1:])
    whole[mine] = rows
    sum_over_ranks([whole])
    return whole


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if num_ranks() > 1:
        with peers():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


def from_first(value: Value) -> Value:
    """Rank 0's value, on every rank."""
    return gathered(value if is_first() else None)[0]


def everywhere(value: bool) -> bool:
    """Whether something holds on every rank."""
    return all(gathered(value))


def largest(number: int) -> int:
    """The largest of the ranks' numbers."""
    if num_ranks() == 1:
        return number
    found = torch.tensor(number)
    with peers():
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def gathered(value: Value) -> list[Value]:
    """The values of all ranks in order, any plain Python object."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = [None] * num_ranks()
    with peers():
        dist.all_gather_object(values, value)
    return values


@contextmanager
def shared_errors() -> Iterator[None]:
    """Inside, each rank works for itself; an error that a user can act on then leaves on all ranks, not on one."""
    if num_ranks() == 1:
        yield
        return
    error = None
    try:
        yield
    except ACTIONABLE as raised:
        error = raised
    found = next((each for each in gathered(error) if each is not None), None)
    if found is not None:
        found.add_note(TOLD)
        raise found


def on_first(work: Callable[[], Value]) -> Value:
    """What ``work`` gives, or raises, on rank 0, which does it alone while the others wait."""
    value = None
    with shared_errors():
        if is_first():
            with alone():
                value = work()
    return from_first(value)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process takes itself for the only one."""
    token = ALONE.set(True)
    try:
        yield
    finally:
        ALONE.reset(token)


def first_finishes(work: Callable[[], None]) -> None:
    """Rank 0 does ``work`` and the others wait a while for it, wherever each of them was when the end came.

    A launcher ends all processes as soon as one has left with an error, and rank 0 still has to write why.
    """
    if is_first():
        work()
    for store in STORE if num_ranks() > 1 else ():
        with suppress(RuntimeError):  # another rank has left, or takes too long
            if is_first():
                store.set("written", "")
                store.wait([f"read by {number}" for number in range(1, num_ranks())], FAREWELL)
            else:
                store.wait(["written"], LAST_WORDS)
                store.set(f"read by {rank()}", "")


def check_same(facts: dict[str, str]) -> None:
    """Refuse ranks that were asked for different things, given by name (``UsageError``)."""
    with shared_errors():
        first = from_first(facts)
        for name, value in facts.items():
            if value != first[name]:
                raise UsageError(f"process {rank()} of the launch was given {name} {value}, the first {first[name]}")


@contextmanager
def peers() -> Iterator[None]:
    """An exchange with the other ranks; ``LostProcessError`` when one of them has left."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"another process of this run ended, its own message says why ({reason})") from error
