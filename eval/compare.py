"""Tables of several result records as text, Markdown and CSV; unlike protocols never share one."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.errors import UsageError
from pipelines.text import markdown_table

from .metric import displays, title
from .protocol import differences
from .words import Record, attacked_name, behind, forget_names, model_name, number, ordered_keys

Layout = Literal["text", "markdown", "csv"]
ENDS = ("", "_low", "_high", "_n")
COLUMNS = (
    "forget_accuracy",
    "retain_accuracy",
    "neighbour_accuracy",
    "leakage",
    "frechet",
    "kid",
    "precision",
    "recall",
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as a reader sees them and as a program wants them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    raw_header: tuple[str, ...]
    raw_rows: tuple[tuple[Any, ...], ...]


def check_alike(records: Mapping[str, Record]) -> None:
    """Refuse records that were not measured alike (``UsageError`` names the two runs and every difference)."""
    (first, reference), *others = records.items()
    for name, record in others:
        found = differences(reference["protocol"], record["protocol"])
        for key in ("feature_space", "class_names"):
            if reference[key] != record[key]:
                found[key] = (short(reference[key]), short(record[key]))
        if found:
            what = "; ".join(f"{key.replace('_', ' ')}: {a} and {b}" for key, (a, b) in found.items())
            raise UsageError(f"{first} and {name} were measured under unlike protocols and share no table: {what}")


def short(value: Any) -> str:
    """A setting in a few words."""
    return f"{len(value)} classes, {', '.join(value[:3])}, ..." if isinstance(value, list) else str(value)


def tabulate(records: Mapping[str, Record], *, columns: Sequence[str] = ()) -> Table:
    """One row per run and, before the first run of each original model and forget set, one for that original.

    ``records`` maps a run's name to its record; ``columns`` names values, by default the usual ones that were measured.
    Probes follow as columns of their own.
    """
    if not records:
        raise UsageError("a comparison needs at least one result record")
    check_alike(records)
    keys = tuple(columns) or measured(COLUMNS, records)
    for key in keys:
        if key not in displays():
            raise UsageError(f"--columns {key!r} is not one of {', '.join(displays())}")
    probes = tuple(dict.fromkeys(name for record in records.values() for name in record["probes"]))
    units = [displays()[key].unit for key in keys] + ["share"] * len(probes)

    rows, raw_rows = [], []
    for model, label, record in lines(records):
        entries = [record[model].get(key) for key in keys] + [probe_entry(record, probe, model) for probe in probes]
        start = (label, forget_names(record))
        about = [""] * len(keys) + [attacked_class(record, probe) for probe in probes]
        cells = (cell(entry, unit) for entry, unit in zip(entries, units, strict=True))
        rows.append((*start, *map(behind, cells, about)))
        raw_rows.append((*start, *raw_cells(entries)))
    space = next(iter(records.values()))["feature_space"]
    titles = [title(key, space) for key in keys] + [name.replace("_", " ") for name in probes]
    return Table(
        header=("run", "erased class", *titles),
        rows=tuple(rows),
        raw_header=("run", "erased_class", *(f"{key}{end}" for key in (*keys, *probes) for end in ENDS)),
        raw_rows=tuple(raw_rows),
    )


def measured(keys: Sequence[str], records: Mapping[str, Record]) -> tuple[str, ...]:
    """The keys that at least one record holds."""
    return tuple(key for key in keys if any(key in record["erased"] for record in records.values()))


def lines(records: Mapping[str, Record]) -> Iterator[tuple[str, str, Record]]:
    """(model, name in the table, record) of each row."""
    seen = set()
    for name, record in records.items():
        original = (model_name(record), *record["forget_classes"])
        if original not in seen:
            yield "original", f"original ({original[0]})", record
        seen.add(original)
        yield "erased", name, record


def probe_entry(record: Record, probe: str, model: str) -> Mapping[str, Any] | None:
    """A probe's outcome on one model, where it was run."""
    return record["probes"].get(probe, {}).get(model)


def attacked_class(record: Record, probe: str) -> str:
    """The class that an attack is reported for, where several were erased."""
    return attacked_name(record, record["probes"][probe]) if probe in record["probes"] else ""


def cell(entry: Mapping[str, Any] | None, unit: str) -> str:
    """A value as a reader sees it."""
    return number(entry["value"], unit) if entry and entry["value"] is not None else "-"


def raw_cells(entries: Sequence[Mapping[str, Any] | None]) -> list[Any]:
    """Value, interval and count of each entry; empty where there is none."""
    return [entry.get(key) if entry else None for entry in entries for key in ("value", "low", "high", "n")]


def comparison_table(records: Mapping[str, Record], *, layout: Layout = "text", columns: Sequence[str] = ()) -> str:
    """A table of runs, by default as text; the arguments are those of ``tabulate``."""
    return {"text": to_text, "markdown": to_markdown, "csv": to_csv}[layout](tabulate(records, columns=columns))


def compare_records(records: Mapping[str, Record], *, columns: Sequence[str] = ()) -> dict[str, Any]:
    """The same table for a program: the shared protocol and one mapping per row, values in full precision."""
    table = tabulate(records, columns=columns)
    rows = [dict(zip(table.raw_header, row, strict=True)) for row in table.raw_rows]
    return {"protocol": dict(next(iter(records.values()))["protocol"]), "rows": rows}


def to_text(table: Table) -> str:
    """Aligned columns for a terminal."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    aligned = [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([aligned[0].rstrip(), "-" * len(aligned[0]), *(line.rstrip() for line in aligned[1:])]) + "\n"


def to_markdown(table: Table) -> str:
    """A Markdown table."""
    return markdown_table(table.header, table.rows, text_columns=2)


def to_csv(table: Table) -> str:
    """Full precision with intervals and counts."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([table.raw_header, *table.raw_rows])
    return stream.getvalue()


def scores_table(record: Record) -> Table:
    """Every value of one record: erased beside original."""
    keys = ordered_keys(record)
    entries = [(record["erased"][key], record["original"][key]) for key in keys]
    rows = [
        (title(key, record["feature_space"]), displays()[key].better, cell(now, unit), cell(before, unit))
        for key, (now, before) in zip(keys, entries, strict=True)
        for unit in [displays()[key].unit]
    ]
    raw_header = [f"{model}{end}" for model in ("erased", "original") for end in ENDS]
    return Table(
        header=("score", "better", "erased", "original"),
        rows=tuple(rows),
        raw_header=("score", "better", *raw_header),
        raw_rows=tuple(
            (key, displays()[key].better, *raw_cells(pair)) for key, pair in zip(keys, entries, strict=True)
        ),
    )
