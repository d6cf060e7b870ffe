"""One self-contained HTML page for a batch: what was scored, what is missing, the table, charts and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.charts import SERIES_COLOURS
from eval.report import filled
from pipelines.files import write_text
from pipelines.text import counted, listed

from . import report_parts as parts
from .pictured import picture_view
from .plan import Plan, command_of
from .progress import failures_of
from .report_attacks import attacks_view
from .report_charts import measures, scatter_view
from .report_parts import Scored
from .seed_table import FIRST, SeedTable, shared_by
from .worker import Board

MAX_NAMED = 4  # erased classes that the headline names


def write_batch_report(board: Board, scored: Sequence[Scored], tables: Sequence[SeedTable]) -> None:
    """Write ``report.html``; it appears whole or not at all."""
    write_text(render_batch_report(board, scored, tables), board.plan.folder.report_path)


def render_batch_report(board: Board, scored: Sequence[Scored], tables: Sequence[SeedTable]) -> str:
    """The page as text: ``tables`` are those of the records, in their order."""
    groups: dict[str, list[Scored]] = {}
    for each in scored:
        groups.setdefault(shared_by(each.record), []).append(each)
    sections = [section(table, group, board.plan) for table, group in zip(tables, groups.values(), strict=True)]
    drawn = [len(each["scatter"]["chart"].series) for each in sections if each["scatter"]]
    view = {
        **head_view(board, scored, tables),
        "tables": sections,
        "colours": SERIES_COLOURS,
        "most_series": max(drawn, default=0),
    }
    return filled("batch_report.html", view)


def head_view(board: Board, scored: Sequence[Scored], tables: Sequence[SeedTable]) -> dict[str, Any]:
    """What stands above the first table."""
    plan = board.plan
    erased, heading = headline(scored, tables)
    return {
        "name": plan.jobs.path.stem,
        "title": f"{erased} {heading}".strip(),
        "erased": erased,
        "heading": heading,
        "summary": summary(scored, tables),
        "problems": problems(board),
        "facts": versions([each.record for each in scored]),
        "command": command_of(plan.jobs),
        "stats": [stat for table in tables[:1] for stat in parts.best_stats(table)],
    }


def headline(scored: Sequence[Scored], tables: Sequence[SeedTable]) -> tuple[str, str]:
    """The erased classes, where they are few, and the rest of the headline."""
    if not tables:
        return "", "Nothing is scored yet"
    classes = list(dict.fromkeys(name for table in tables for name in table.classes))
    models = listed(dict.fromkeys(each.original for each in scored))
    if len(classes) > MAX_NAMED:
        return "", f"{len(classes)} classes erased from {models}"
    return listed(classes), f"erased from {models}"


def summary(scored: Sequence[Scored], tables: Sequence[SeedTable]) -> str:
    """What was scored, in numbers."""
    if not tables:
        return ""
    methods = dict.fromkeys(name for table in tables for name, _ in table.rows if name not in FIRST)
    seeds = {each.record["batch"]["seed"] for each in scored} - {None}
    models = {each.record["batch"]["model"] for each in scored}
    protocols = list(dict.fromkeys(each.record["protocol"]["name"] for each in scored))
    classes = dict.fromkeys(name for table in tables for name in table.classes)
    what = [
        counted(len(methods), "method"),
        counted(len(classes), "class", plural="classes"),
        counted(len(seeds), "seed"),
    ]
    of = f"protocol{'s' * (len(protocols) > 1)} {listed(protocols)}"
    return f"{counted(len(models), 'model')} scored under the {of}: {', '.join(what)}."


def problems(board: Board) -> dict[str, Any]:
    """What failed and what is unfinished; empty for a batch that is done."""
    plan = board.plan
    left = len(plan.units) - len(board.done)
    if not left:
        return {}
    records = plan.of_kind("record")
    done, failures = sum(unit.name in board.done for unit in records), failures_of(plan)
    scored = (
        f"{done} of {counted(len(records), 'model')} are scored." if done < len(records) else "All models are scored."
    )
    failed = f" ({len(failures)} failed)" if failures else ""
    return {
        "sentence": f"{scored} {counted(left, 'unit')} of work {'is' if left == 1 else 'are'} not done{failed}.",
        "advice": "Repeat the command below to go on: what is done is not done again.",
        "failures": [
            {"title": each["title"], "line": each["log"][-1] if each["log"] else each["error"],
             "log": parts.link(plan.folder, plan.folder.log_path(each["unit"]), "its log")}
            for each in failures
        ],
    }  # fmt: skip


def versions(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The versions that made the records; several of one package are all named."""
    names = dict.fromkeys(name for record in records for name in record["versions"])
    return {name: listed(dict.fromkeys(record["versions"].get(name, "-") for record in records)) for name in names}


def section(table: SeedTable, scored: Sequence[Scored], plan: Plan) -> dict[str, Any]:
    """Everything about the models of one table."""
    record = scored[0].record
    pictures, unpictured = picture_view(table, scored, plan.folder)
    over = f" over {'classes and ' * (len(table.classes) > 1)}seeds"
    return {
        **parts.table_view(table),
        "title": f"{scored[0].original} under protocol {record['protocol']['name']}",
        "scatter": scatter_view(table, scored),
        "measures": measures(table, scored),
        "over": over,
        "pictures": pictures,
        "unpictured": unpictured,
        "attacks": attacks_view(scored),
        "models": [parts.model_row(each, table, plan.folder) for each in scored],
        "protocol": record["protocol"],
    }
