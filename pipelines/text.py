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


def gib(size: float) -> str:
    """Bytes in a readable unit."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """A rough time in words: seconds, minutes, hours or days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    if hours < 1.5:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def operations(tflop: float) -> str:
    """Floating-point operations, given in 1e12, in a readable unit."""
    units = ["TFLOP", "PFLOP", "EFLOP"]
    while tflop >= 1000 and len(units) > 1:
        tflop /= 1000
        del units[0]
    return f"{tflop:,.1f} {units[0]}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int) -> str:
    """A Markdown table whose first columns are text, aligned left, and whose others are numbers."""
    rule = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    lines = [header, rule, *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
