"""How a class name is written: one normal form for comparing, the entry of a class, the sentences of an error."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import UsageError
from .imagenet import ImageNetClass

SMALL_MODEL = 20  # up to this many classes, an error message names them all
MAX_OFFERED = 10  # candidates in an error message

WNID = re.compile(r"n\d{8}", re.IGNORECASE)
APOSTROPHES = re.compile("['`\u00b4\u2018\u2019\u02bc\u2032]")
SEPARATORS = re.compile("[\\s_,\u2010-\u2015-]+")
ABBREVIATION = re.compile(r"\.(?!\d)")


@dataclass(frozen=True)
class ClassEntry:
    """One class of a model."""

    index: int
    name: str  # the first of the model's own names
    wnid: str | None
    synonyms: tuple[str, ...]  # every other name by which the class is found
    definition: str | None
    label: str  # what the model's files say, verbatim

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, the model's own first."""
        return (self.name, *self.synonyms)

    def __str__(self) -> str:
        """One line: index, wnid, names, definition."""
        start = f"{self.index:>4}  {self.wnid}" if self.wnid else f"{self.index:>4}"
        return f"{start}  {', '.join(self.names)}" + (f": {self.definition}" if self.definition else "")


def normalise(text: str) -> str:
    """The form in which names are compared: no case, apostrophe or abbreviation dot; separators become one space."""
    compatible = unicodedata.normalize("NFKC", ABBREVIATION.sub("", APOSTROPHES.sub("", text))).casefold()
    return SEPARATORS.sub(" ", compatible).strip() or text.strip()


def split_label(label: str) -> list[str]:
    """The names in a label such as ``"tench, Tinca tinca"``."""
    return [part.strip() for part in label.split(",") if part.strip()] or [label.strip()]


def class_entry(index: int, label: str, known: ImageNetClass | None) -> ClassEntry:
    """The entry of a class from the model's own label and what ImageNet knows of it; a bare wnid is not a name."""
    own = [] if known and label.strip().lower() == known.wnid else split_label(label)
    distinct: dict[str, str] = {}
    for name in (*own, *(known.names if known else ())):
        distinct.setdefault(normalise(name), name)
    name, *synonyms = distinct.values()
    if known is None:
        return ClassEntry(index, name, None, tuple(synonyms), None, label)
    return ClassEntry(index, name, known.wnid, tuple(synonyms), known.definition, label)


def in_index_order(labels: Mapping[str, str] | Mapping[int, str]) -> tuple[str, ...]:
    """The values of diffusers' ``id2label``, whose keys must be 0 to n - 1 (``UsageError`` otherwise)."""
    by_text = {str(key): label for key, label in labels.items()}
    for index in range(len(labels)):
        if str(index) not in by_text:
            expected = f"0 to {len(labels) - 1}"
            raise UsageError(f"id2label has {len(labels)} entries but none for index {index}; it needs {expected}")
    return tuple(by_text[str(index)] for index in range(len(labels)))


def accepted_sentence(entries: Sequence[ClassEntry]) -> str:
    """What a class may be given as."""
    last = len(entries) - 1
    if len(entries) <= SMALL_MODEL:
        return f"give an index 0 to {last} or one of the names {', '.join(entry.name for entry in entries)}"
    wnid = ", a wnid" if any(entry.wnid for entry in entries) else ""
    return f"give an index 0 to {last}{wnid} or an exact class name (`erase classes WORD` searches them)"


def ambiguous_sentence(query: str, candidates: Sequence[ClassEntry]) -> str:
    """Several classes fit a query."""
    choice = "index or wnid" if all(entry.wnid for entry in candidates) else "index"
    lines = candidate_lines(query, candidates)
    return f"class {query!r} names {len(candidates)} classes; choose one by {choice}:\n{lines}"


def number_sentence(query: str, candidates: Sequence[ClassEntry]) -> str:
    """A number is the index of one class and the name of another."""
    choices = " or ".join(f"#{entry.index}" for entry in candidates)
    lines = candidate_lines(query, candidates)
    return f"class {query!r} is an index and also a name; choose by index, as {choices}:\n{lines}"


def null_sentence(query: str | int, null_class: int) -> str:
    """The null class was asked for."""
    return (
        f"class {query!r} is the null class: the label that means 'no class', which guidance subtracts; "
        f"it is not a class to choose, the classes are 0 to {null_class - 1}"
    )


def unknown_sentence(
    query: str, entries: Sequence[ClassEntry], *, with_words: Sequence[ClassEntry], spelt_like: Sequence[ClassEntry]
) -> str:
    """No class fits a query; classes that contain it as a word, or else are spelt alike, are offered."""
    noun = "has the wnid" if WNID.fullmatch(query.strip()) else "is called"
    start, offered = f"no class {noun} {query!r}", with_words or spelt_like
    why = "contain it" if with_words else "are spelt alike"
    if not offered:
        return f"{start}; {accepted_sentence(entries)}"
    if len(entries) <= SMALL_MODEL:
        alike = ", ".join(f"{entry.index} {entry.name}" for entry in offered)
        return f"{start} (names that {why}: {alike}); {accepted_sentence(entries)}"
    choice = "index, wnid or full name" if any(entry.wnid for entry in offered) else "index or full name"
    return f"{start}, but these names {why}; choose one by {choice}:\n{candidate_lines(query, offered)}"


def candidate_lines(query: str, candidates: Sequence[ClassEntry]) -> str:
    """One line a candidate, at most ``MAX_OFFERED`` of them."""
    lines = [str(entry) for entry in candidates[:MAX_OFFERED]]
    if len(candidates) > MAX_OFFERED:
        lines.append(f"      and {len(candidates) - MAX_OFFERED} more, listed by `erase classes {query!r}`")
    return "\n".join(lines)
