"""What is known offline about ImageNet's 1000 classes: wnids, names and definitions (timm, torchvision), co-labels.

Co-labels are ReaL, several labels for each validation image: Beyer et al., "Are we done with ImageNet?" (2006.07159).
"""

import json
import pkgutil
from collections import Counter
from dataclasses import dataclass
from functools import cache

NUM_CLASSES = 1000


@dataclass(frozen=True)
class ImageNetClass:
    """One class of ImageNet-1k."""

    index: int
    wnid: str
    names: tuple[str, ...]  # timm's synonyms in WordNet order, then torchvision's name where it is another
    definition: str


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """The 1000 classes in index order."""
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    info = ImageNetInfo("imagenet-1k")
    torchvision_names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    classes = []
    for index, wnid in enumerate(info.label_names()):
        lemmas = info.label_name_to_description(wnid)
        definition = info.label_name_to_description(wnid, detailed=True).removeprefix(f"{lemmas}: ")
        names = dict.fromkeys([*lemmas.split(", "), torchvision_names[index]])
        classes.append(ImageNetClass(index, wnid, tuple(names), definition))
    return tuple(classes)


@cache
def imagenet_wnids() -> dict[str, ImageNetClass]:
    """The classes by wnid."""
    return {entry.wnid: entry for entry in imagenet_classes()}


@cache
def co_label_counts() -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """ReaL images that show each class, and ReaL images that show both classes of an ordered pair."""
    data = pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json")
    assert data is not None
    single: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for labels in json.loads(data):
        present = set(labels)
        single.update(present)
        pairs.update((first, second) for first in present for second in present if first != second)
    return single, pairs


def co_label_shares(index: int) -> dict[int, float]:
    """For every other class that occurs with ``index``: the share of *its* images that also show ``index``.

    This is the direction that matters when ``index`` is erased and the other class is retained: 0.83 for 657 missile
    and 744 projectile means that 83 % of the retained projectiles train missiles back in.
    """
    single, pairs = co_label_counts()
    return {other: count / single[other] for (first, other), count in pairs.items() if first == index}
