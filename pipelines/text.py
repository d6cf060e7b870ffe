"""Words and tables as people read them."""

from collections.abc import Iterable, Sequence


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *start, last = [*words] or [""]
    return " and ".join(filter(None, [", ".join(start), last]))


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
