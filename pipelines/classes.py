"""Class names of a model: finding the one class that a user means, and saying clearly when there is not exactly one."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import log
from numbers import Integral

from .errors import UsageError
from .imagenet import NUM_CLASSES, ImageNetClass, co_label_shares, imagenet_classes, imagenet_wnids
from .names import (
    MAX_OFFERED,
    WNID,
    ClassEntry,
    accepted_sentence,
    ambiguous_sentence,
    class_entry,
    in_index_order,
    normalise,
    null_sentence,
    number_sentence,
    split_label,
    unknown_sentence,
)

SIBLING_SHARE = 0.3  # co-label share from which retaining one class trains the other back in
CLOSE_SPELLING = 0.8  # difflib ratio
INTEGER = re.compile(r"(#?)([+-]?\d{1,18})")
NULL_NAMES = ("null", "null class", "unconditional")


class UnknownClassError(UsageError):
    """A query that is no class of the model."""


class AmbiguousClassError(UsageError):
    """A query that fits several classes of the model."""


class ClassNames:
    """The classes of one model.

    Built from the model's own labels: names in index order, or diffusers' ``id2label``; a label may hold synonyms,
    separated by commas. Labels that are ImageNet's, by their place among 1000 or as wnids, gain wnid, synonyms and
    definition; timm is imported when these are first needed, and never for another model.
    """

    def __init__(self, labels: Sequence[str] | Mapping[str, str] | Mapping[int, str]) -> None:
        self.labels = in_index_order(labels) if isinstance(labels, Mapping) else tuple(labels)
        if isinstance(labels, str) or not self.labels:
            raise UsageError(f"class labels must be a sequence of one or more names, not {labels!r}")
        for index, label in enumerate(self.labels):
            if not isinstance(label, str) or not label.strip():
                raise UsageError(f"the label of class {index} is {label!r}; it must be a name")

    @classmethod
    def imagenet(cls) -> "ClassNames":
        """The names of ImageNet-1k, for a model whose files hold none."""
        return cls([", ".join(entry.names) for entry in imagenet_classes()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ClassEntry:
        if not 0 <= index < len(self):
            raise IndexError(f"class index {index} is not in 0 to {len(self) - 1}")
        return self._entries[index]

    def __iter__(self) -> Iterator[ClassEntry]:
        return iter(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassNames) and self.labels == other.labels

    def __hash__(self) -> int:
        return hash(self.labels)

    def __repr__(self) -> str:
        return f"ClassNames({', '.join(self.labels[:3])}{', ...' if len(self) > 3 else ''}; {len(self)} classes)"

    @property
    def null_class(self) -> int:
        """The label that means "no class": the one after the last."""
        return len(self.labels)

    def resolve(self, query: str | int) -> int:
        """The index of the class meant by an index, a wnid or an exact name; case and punctuation do not matter.

        Raises ``UnknownClassError`` or ``AmbiguousClassError`` (both ``UsageError``) with the candidates and never
        picks one, not even a single candidate. ``"#3"`` is index 3 even where another class is named "3".
        """
        if isinstance(query, bool) or not isinstance(query, str | Integral):
            raise UsageError(f"class {query!r} is a {type(query).__name__}; {accepted_sentence(self._entries)}")
        if not isinstance(query, str):
            return self._in_range(int(query))
        text = normalise(query)
        if not text:
            raise UsageError(f"class {query!r} is empty; {accepted_sentence(self._entries)}")

        found = self.matches(query)
        if len(found) == 1:
            return found[0]
        integer = INTEGER.fullmatch(query.strip())
        if found:
            sentence = number_sentence if integer else ambiguous_sentence
            raise AmbiguousClassError(sentence(query, self._at(found)))
        if integer:
            return self._in_range(int(integer[2]))
        if text in NULL_NAMES:
            raise UsageError(null_sentence(query, self.null_class))
        words, alike = self._at(self._with_words(text)), self._at(self._spelt_like(text))
        raise UnknownClassError(unknown_sentence(query, self._entries, with_words=words, spelt_like=alike))

    def matches(self, query: str) -> list[int]:
        """The classes that a text fits exactly: as an index, else as a wnid, else as a name.

        A number that is also the name of a class fits both, except as ``"#3"``.
        """
        text, integer = normalise(query), INTEGER.fullmatch(query.strip())
        named = self._by_name.get(text, ())
        if integer:
            indices = [int(integer[2])] if 0 <= int(integer[2]) < len(self) else []
            return list(dict.fromkeys([*indices, *(() if integer[1] else named)]))
        return [self._by_wnid[text]] if text in self._by_wnid else list(named)

    def resolve_folder(self, name: str) -> int:
        """The class of a folder of images; raises as ``resolve`` does.

        Outside ImageNet a label of the model, letter by letter, goes first: a model trained on folders ``A`` and ``a``,
        or ``10`` and ``2``, reads these folders again.
        """
        found = self.folder_matches(name)
        return found[0] if len(found) == 1 else self.resolve(name)

    def folder_matches(self, name: str) -> list[int]:
        """The classes that the name of a folder of images fits exactly."""
        if self.labels.count(name) == 1 and self._imagenet[self.labels.index(name)] is None:
            return [self.labels.index(name)]
        return self.matches(name)

    def search(self, query: str) -> list[ClassEntry]:
        """Classes for a query, best first: exact, whole words, parts of names, words of definitions.

        Close spellings only when there is nothing else; an empty query lists every class.
        """
        text = normalise(query)
        if not text:
            return list(self._entries)
        words = set(text.split())
        exact = [index for index in range(len(self)) if str(index) == text or self[index].wnid == text]
        parts = sorted(index for name, indices in self._by_name.items() if text in name for index in indices)
        defined = [entry.index for entry in self if words <= set(normalise(entry.definition or "").split())]
        found = [*exact, *self._by_name.get(text, ()), *self._with_words(text), *parts, *defined]
        return self._at(dict.fromkeys(found or self._spelt_like(text)))

    def related(self, index: int, *, limit: int = 10) -> list[int]:
        """Up to ``limit`` other classes that share words with a class.

        Those that share the last word of a name (white fox, red fox) come first, then those with more and rarer words.
        """
        own, heads = self._words[index], self._last_words(index)
        frequency = Counter(word for words in self._words for word in words)
        scores = {}
        for other, words in enumerate(self._words):
            if other != index and own & words:
                rarity = sum(log(len(self) / frequency[word]) for word in own & words)
                scores[other] = (not heads.isdisjoint(self._last_words(other)), rarity)
        return sorted(scores, key=lambda other: scores[other], reverse=True)[:limit]

    def siblings(self, index: int) -> list[tuple[int, float]]:
        """Classes of whose images a share of at least 0.3 also shows class ``index``, by falling share.

        From the ReaL labels of ImageNet's validation images: retaining such a class trains ``index`` back in. Empty
        for a class that is not ImageNet's.
        """
        known = self._imagenet[index]
        shares = co_label_shares(known.index) if known else {}
        found = [
            (other, shares[entry.index])
            for other, entry in enumerate(self._imagenet)
            if entry and shares.get(entry.index, 0.0) >= SIBLING_SHARE
        ]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    @cached_property
    def _imagenet(self) -> tuple[ImageNetClass | None, ...]:
        """The ImageNet class behind each label, where one is known."""
        if all(WNID.fullmatch(label.strip()) for label in self.labels):
            return tuple(imagenet_wnids().get(label.strip().lower()) for label in self.labels)
        unknown = (None,) * len(self)
        if len(self) != NUM_CLASSES:
            return unknown

        # Where most names agree at the same index, the order is ImageNet's; a label that differs stays what it says.
        known = tuple(
            entry if not {*map(normalise, split_label(label))}.isdisjoint(map(normalise, entry.names)) else None
            for label, entry in zip(self.labels, imagenet_classes(), strict=True)
        )
        return known if 2 * sum(entry is not None for entry in known) > len(known) else unknown

    @cached_property
    def _entries(self) -> tuple[ClassEntry, ...]:
        """Every class, in index order."""
        pairs = zip(self.labels, self._imagenet, strict=True)
        return tuple(class_entry(index, label, known) for index, (label, known) in enumerate(pairs))

    @cached_property
    def _by_wnid(self) -> dict[str, int]:
        """Index by wnid."""
        return {entry.wnid: entry.index for entry in self._entries if entry.wnid}

    @cached_property
    def _by_name(self) -> dict[str, tuple[int, ...]]:
        """Indices by normalised name; a whole label, and all names in a row as they are printed, are names too."""
        found: dict[str, list[int]] = {}
        for entry in self._entries:
            for name in dict.fromkeys(map(normalise, (*entry.names, entry.label, ", ".join(entry.names)))):
                found.setdefault(name, []).append(entry.index)
        return {name: tuple(indices) for name, indices in found.items()}

    @cached_property
    def _words(self) -> tuple[set[str], ...]:
        """The words of at least three letters in the names of each class."""
        return tuple({w for name in e.names for w in normalise(name).split() if len(w) > 2} for e in self._entries)

    def _last_words(self, index: int) -> set[str]:
        """The last word of each name of a class."""
        return {normalise(name).split()[-1] for name in self._entries[index].names}

    def _at(self, indices: Iterable[int]) -> list[ClassEntry]:
        """The entries at some indices."""
        return [self._entries[index] for index in indices]

    def _in_range(self, index: int) -> int:
        """An index, held to the range of the model's classes."""
        if index == self.null_class:
            raise UsageError(null_sentence(index, self.null_class))
        if not 0 <= index < len(self):
            raise UnknownClassError(f"class index {index} is out of range; {accepted_sentence(self._entries)}")
        return index

    def _with_words(self, text: str) -> list[int]:
        """Classes one of whose names holds every word of a normalised query."""
        words = set(text.split())
        found = {index for name, indices in self._by_name.items() if words <= set(name.split()) for index in indices}
        return sorted(found)

    def _spelt_like(self, text: str) -> list[int]:
        """Classes with a name, or a word of a name, that is spelt almost like a normalised query; the closest first."""
        places: dict[str, list[int]] = {name: list(indices) for name, indices in self._by_name.items()}
        for index, words in enumerate(self._words):
            for word in words:
                places.setdefault(word, []).append(index)
        close = difflib.get_close_matches(text, places, n=MAX_OFFERED, cutoff=CLOSE_SPELLING)
        return list(dict.fromkeys(index for name in close for index in places[name]))[:MAX_OFFERED]
