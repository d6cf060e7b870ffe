"""Words and tables as people read them."""

import difflib
from collections.abc import Callable, Iterable, Sequence

SPELLED_ALIKE = 0.7  # similarity, of 1, from which a word may have been meant


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *start, last = [*words] or [""]
    return " and ".join(filter(None, [", ".join(start), last]))


def did_you_mean(word: str, known: Iterable[str], *, typed: Callable[[str], str] = "{!r}".format) -> str:
    """``did you mean 'methods'? `` before the rest of a refusal, the word as it is ``typed``; empty if none is near."""
    near = difflib.get_close_matches(word, [*known], n=1, cutoff=SPELLED_ALIKE)
    return f"did you mean {typed(near[0])}? " if near else ""


def counted(number: int, noun: str, *, plural: str = "") -> str:
    """``1 image``, ``1,200 images``; ``plural`` is for nouns that do not take an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def explained(claim: str, parts: str) -> str:
    """``claim: parts``, or the claim alone where it has no parts."""
    return f"{claim}: {parts}" if parts else claim


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int) -> str:
    """A Markdown table whose first columns are text, aligned left, and whose others are numbers."""
    rule = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    lines = [header, rule, *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
