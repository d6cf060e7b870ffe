"""The panel of related classes that the scores of a run watch: chosen and shown before the run."""

from collections.abc import Sequence
from typing import Any

from eval.neighbours import related_classes
from eval.protocol import Protocol
from pipelines.errors import UsageError
from pipelines.label_rows import stored_label_rows
from pipelines.model_source import load_classes, read_provenance
from pipelines.provenance import erased_classes

Neighbours = int | Sequence[int | str] | None  # how many, or which; None leaves the choice to the classifier


def choose_neighbours(
    model: str, forget_classes: Sequence[int], asked: Neighbours, *, protocol: Protocol | None
) -> tuple[int, ...]:
    """The classes to watch, from names and the stored label table alone; none where none were asked for.

    Raises ``UsageError`` for a count or a class that cannot be watched, or without scores.
    """
    if asked is None:
        return ()
    if protocol is None:
        raise UsageError(f"--neighbours {typed(asked)} has no effect with --protocol none")
    names, removed = load_classes(model), {*forget_classes, *erased_classes(read_provenance(model))}
    if not isinstance(asked, int):
        chosen = tuple(dict.fromkeys(names.resolve(query) for query in asked))
        for label in chosen:
            if label in removed:
                raise UsageError(f"--neighbours {typed(asked)}: {names[label].name} ({label}) is erased, not retained")
        return chosen

    retained = len(names) - len(removed)
    if not 1 <= asked <= retained:
        raise UsageError(f"--neighbours {asked} must lie in 1 to {retained}, the number of retained classes")
    rows = stored_label_rows(model)
    chosen = related_classes(names, forget_classes, count=asked, removed=removed, label_rows=rows)
    if not chosen:
        raise UsageError(
            f"--neighbours {asked}: no retained class shares a word with the erased one, and no label table is at "
            'hand; name the classes, as --neighbours "CLASS,CLASS"'
        )
    return tuple(chosen)


def typed(asked: Neighbours) -> str:
    """The panel as one would type it."""
    return str(asked) if isinstance(asked, int) else ",".join(map(str, asked or ()))


def parse_neighbours(text: str | None) -> Neighbours:
    """The value of ``--neighbours``: a number, or classes separated by commas (``UsageError`` for an empty one)."""
    if text is None:
        return None
    if text.strip().lstrip("-").isdigit():
        return int(text)
    classes = [part.strip() for part in text.split(",") if part.strip()]
    if not classes:
        raise UsageError(f"--neighbours {text!r} is neither a number nor classes separated by commas")
    return classes


def described(model: str, neighbours: Sequence[int]) -> list[dict[str, Any]]:
    """Index, wnid and name of each neighbour."""
    names = load_classes(model)
    return [{"index": label, "wnid": names[label].wnid, "name": names[label].name} for label in neighbours]


def line_of(entry: dict[str, Any]) -> str:
    """One neighbour in a few words."""
    return " ".join(filter(None, [str(entry["index"]), entry["wnid"], entry["name"]]))
