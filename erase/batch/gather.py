"""What a batch hands back: every record with its attacks in one file of lines, the tables, and the report."""

import json
from collections.abc import Sequence
from typing import Any

from eval.evaluate import read_record
from pipelines.files import write_text

from .layouts import LAYOUTS, SUFFIXES
from .plan import Plan
from .report import write_batch_report
from .report_parts import Scored
from .seed_table import SeedTable, tables_of
from .units import RecordUnit
from .worker import Board

ATTACKS = ("probes", "recovery", "attacks", "by_class")


def gather(board: Board) -> list[SeedTable]:
    """Write ``results.jsonl``, the tables and the report from the records that are there; returns the tables."""
    plan = board.plan
    scored = [
        Scored(unit=unit, record=whole_record(unit, plan)) for unit in plan.of_kind("record") if unit.name in board.done
    ]
    records, folder = [each.record for each in scored], plan.folder
    write_text("".join(json.dumps(record) + "\n" for record in records), folder.results_path)
    tables = tables_of(records, keys=plan.jobs.columns)
    for layout, write in LAYOUTS.items():
        for number, table in enumerate(tables, 1):
            name = f"table{'' if len(tables) == 1 else f'-{number}'}.{SUFFIXES[layout]}"
            write_text(write(table), folder.tables_dir / name)
    write_batch_report(board, scored, tables)
    return tables


def gather_what_is_there(plan: Plan) -> None:
    """The same for a batch that was stopped, where any model is scored."""
    board = Board(plan)
    board.look()
    if any(unit.name in board.done for unit in plan.of_kind("record")):
        gather(board)


def whole_record(unit: RecordUnit, plan: Plan) -> dict[str, Any]:
    """A record, with the attacks that the run has been through since."""
    record = read_record(unit.path(plan.folder))
    if unit.goes_to_run:
        held = read_record(unit.run.results_path)
        record |= {key: held[key] for key in ATTACKS if key in held}
    return record


def shown(tables: Sequence[SeedTable], layout: str) -> str:
    """All tables in one layout."""
    return "\n".join(LAYOUTS[layout](table) for table in tables)
