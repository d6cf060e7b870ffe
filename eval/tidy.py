"""A result record as tidy rows, one for each model and value, for data frames."""

from collections.abc import Iterator, Mapping
from typing import Any

from .by_class import rows_by_class
from .metric import displays
from .report_parts import TITLES, earlier_of
from .words import Record, class_name, ordered_keys

COLUMNS = ("model", "kind", "metric", "class_name", "value", "low", "high", "n", "better", "unit")
Row = dict[str, Any]


def tidy_rows(record: Record) -> list[Row]:
    """Rows of kind ``score``, ``earlier`` (a class that was erased before) and ``probe``, numbers as in the record.

    ``class_name`` is the one class that a row is about; a probe's model ``control`` is the erased one, attacked for a
    retained class.
    """
    models = [model for model in TITLES if model in record]
    return [*score_rows(record, models), *earlier_rows(record), *probe_rows(record)]


def score_rows(record: Record, models: list[str]) -> list[Row]:
    """Every value of every model."""
    return [
        row_of(model, "score", key, record[model][key], better=displays()[key].better, unit=displays()[key].unit)
        for model in models
        for key in ordered_keys(record)
        if key in record[model]
    ]


def earlier_rows(record: Record) -> list[Row]:
    """Forget accuracy of the classes that earlier erasures removed."""
    return [
        row_of(model, "earlier", "forget_accuracy", entry, about=class_name(record, label))
        for label, entries in earlier_of(record).items()
        for model, entry in entries.items()
    ]


def probe_rows(record: Record) -> list[Row]:
    """What each attack brought back on each model; for the control, nothing is better."""
    return [
        row_of(
            who,
            "probe",
            probe,
            entry,
            about=class_name(record, entry["detail"]["class_label"]),
            better="neither" if who == "control" else "lower",
        )
        for probe in record["probes"]
        for who, entry in entries_of(rows_by_class(record, probe))
    ]


def entries_of(by_class: Mapping[str, Record]) -> Iterator[tuple[str, Record]]:
    """Subject and entry of an attack on every erased class; the control, which they share, once and last."""
    for rows in by_class.values():
        yield from ((who, entry) for who, entry in rows.items() if who != "control")
    yield from ((who, entry) for who, entry in next(iter(by_class.values())).items() if who == "control")


def row_of(
    model: str, kind: str, metric: str, entry: Record, *, about: str = "", better: str = "lower", unit: str = "share"
) -> Row:
    """One row, in the order of ``COLUMNS``."""
    numbers = (entry[name] for name in ("value", "low", "high", "n"))
    return dict(zip(COLUMNS, (model, kind, metric, about, *numbers, better, unit), strict=True))
