"""What is known offline about ImageNet's 1000 classes: wnids, names and definitions (timm, torchvision), co-labels.

The tables are read as files of the two packages: importing either imports torch, which takes seconds.
Co-labels are ReaL, several labels for each validation image: Beyer et al., "Are we done with ImageNet?" (2006.07159).
"""

import csv
import json
import runpy
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .errors import MissingError

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
    wnids = timm_table("imagenet_synsets.txt").splitlines()
    lemmas, definitions = (
        dict(csv.reader(timm_table(f"imagenet_synset_to_{kind}.txt").splitlines(), delimiter="\t"))
        for kind in ("lemma", "definition")
    )
    torchvision_names = runpy.run_path(package_dir("torchvision") / "models" / "_meta.py")["_IMAGENET_CATEGORIES"]
    return tuple(
        ImageNetClass(index, wnid, tuple(dict.fromkeys([*lemmas[wnid].split(", "), name])), definitions[wnid])
        for index, (wnid, name) in enumerate(zip(wnids, torchvision_names, strict=True))
    )


def timm_table(name: str) -> str:
    """The text of one of timm's tables (``MissingError`` for a timm without it)."""
    path = package_dir("timm") / "data" / "_info" / name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingError(
            f"{path} is missing: ImageNet's classes need the tables of timm 1.0, pip install -U timm"
        ) from error


def package_dir(name: str) -> Path:
    """The folder of an installed package, which is not imported (``MissingError`` where it is not installed)."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingError(f"ImageNet's classes are named by the package {name}, which is missing: pip install {name}")
    return Path(spec.origin).parent


@cache
def imagenet_wnids() -> dict[str, ImageNetClass]:
    """The classes by wnid."""
    return {entry.wnid: entry for entry in imagenet_classes()}


@cache
def co_label_counts() -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """ReaL images that show each class, and ReaL images that show both classes of an ordered pair."""
    single: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for labels in json.loads(timm_table("imagenet_real_labels.json")):
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
