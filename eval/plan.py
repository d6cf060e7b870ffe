"""Which images an evaluation draws: one list of (class label, image seed) pairs that shards cut and models share."""

from collections.abc import Sequence

import torch

from pipelines.errors import UsageError
from pipelines.randomness import generator

from .protocol import Protocol

Request = tuple[int, int]  # (class label, image seed)
SEEDS_PER_CLASS = 1_000_000


def image_seed(first_seed: int, class_label: int, number: int) -> int:
    """Seed of image ``number`` of a class: it depends on no other class and on no count."""
    return first_seed + class_label * SEEDS_PER_CLASS + number


def check_forget_classes(forget_classes: Sequence[int], num_classes: int) -> None:
    """Refuse forget classes that the model does not have, that repeat, or that leave nothing to retain."""
    for class_label in forget_classes:
        if not 0 <= class_label < num_classes:
            raise UsageError(f"forget class {class_label} is not one of the model's classes 0 to {num_classes - 1}")
    if len(set(forget_classes)) != len(forget_classes) or not forget_classes:
        raise UsageError(f"the forget classes {list(forget_classes)} must be one or more different classes")
    if len(forget_classes) == num_classes:
        raise UsageError("every class of the model is a forget class: nothing is left to retain")


def forget_requests(first_seed: int, forget_classes: Sequence[int], *, num_images: int) -> list[Request]:
    """The first images of each forget class, the classes in turn."""
    return [(label, image_seed(first_seed, label, number)) for number in range(num_images) for label in forget_classes]


def plan_requests(
    protocol: Protocol, *, num_classes: int, forget_classes: Sequence[int], earlier_classes: Sequence[int] = ()
) -> list[Request]:
    """Every image of an evaluation, forget classes first; classes take turns, so that any prefix is balanced.

    ``earlier_classes`` were erased before: none of their images is drawn here.
    """
    check_forget_classes(forget_classes, num_classes)
    first = protocol.first_seed
    forget = forget_requests(first, forget_classes, num_images=protocol.num_forget_images)
    drawn: dict[int, int] = {}
    retain = []
    removed = (*forget_classes, *earlier_classes)
    for label in retained_labels(protocol, num_classes=num_classes, removed_classes=removed):
        retain.append((label, image_seed(first, label, drawn.get(label, 0))))
        drawn[label] = drawn.get(label, 0) + 1
    return forget + retain


def retained_labels(protocol: Protocol, *, num_classes: int, removed_classes: Sequence[int]) -> list[int]:
    """Class label of each retained image: in turn (counts differ by at most one) or uniformly at random."""
    classes = [label for label in range(num_classes) if label not in set(removed_classes)]
    total = protocol.num_retain_images
    if protocol.label_draw == "balanced":
        return [classes[i % len(classes)] for i in range(total)]
    draw = torch.randint(len(classes), (total,), generator=generator(protocol.first_seed, "retained labels"))
    return [classes[i] for i in draw.tolist()]


def shard(requests: Sequence[Request], index: int, count: int) -> list[Request]:
    """Contiguous part ``index`` of ``count`` parts whose sizes differ by at most one; parts in order give the whole."""
    size, extra = divmod(len(requests), count)
    start = index * size + min(index, extra)
    return list(requests[start : start + size + (index < extra)])
