"""``erase batch``: hundreds of models made, scored and attacked from one file, by any number of workers."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.errors import InterruptedRun, UsageError
from pipelines.text import counted

from . import print_json

if TYPE_CHECKING:
    from erase.batch.plan import Plan

LAYOUTS = ["text", "markdown", "csv", "latex", "html"]


@click.command(short_help="Make, score and attack many models from one file.")
@click.argument("jobs", metavar="JOBS.yaml", type=click.Path(path_type=Path))
@click.option("--executor", type=click.Choice(["local", "processes", "slurm"]), help="where [default: JOBS.yaml's]")
@click.option("--workers", type=click.IntRange(1), default=None, help="how many [default: JOBS.yaml's]")
@click.option("--dry-run", is_flag=True, help="print counts, forward passes, time and disk, and write nothing")
@click.option("--status", "only_status", is_flag=True, help="print how far the batch is, and write nothing")
@click.option("--print-sbatch", is_flag=True, help="print the script of a SLURM array job, and write nothing")
@click.option("--format", "layout", type=click.Choice(LAYOUTS), default="text", help="of the table [default: text]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def batch(
    jobs: Path,
    executor: str | None,
    workers: int | None,
    dry_run: bool,
    only_status: bool,
    print_sbatch: bool,
    layout: str,
    as_json: bool,
) -> None:
    """Do everything that JOBS.yaml asks for and that is not done yet; repeat the command to go on after a loss.

    Results, tables and report.html lie in the batch's folder, also of a batch that was stopped or failed in part.
    """
    check_flags(dry_run=dry_run, only_status=only_status, print_sbatch=print_sbatch, as_json=as_json, layout=layout)
    from erase.batch.executors import sbatch_script
    from erase.batch.jobs import read_jobs, with_executor
    from erase.batch.plan import make_plan
    from erase.batch.progress import status, status_text

    plan = make_plan(with_executor(read_jobs(jobs), name=executor, workers=workers))
    if print_sbatch:
        click.echo(sbatch_script(plan.jobs), nl=False)
    elif dry_run:
        from erase.batch.estimate import estimate, estimate_text

        found = estimate(plan)
        print_json(found) if as_json else click.echo(estimate_text(found))
    elif only_status:
        found = status(plan)
        print_json(found) if as_json else click.echo(status_text(found))
    else:
        finish(plan, layout=layout, as_json=as_json)


def finish(plan: "Plan", *, layout: str, as_json: bool) -> None:
    """Work, write the report, write and print the table; exit code 1 where anything failed or is left."""
    from erase.batch.executors import run_batch
    from erase.batch.gather import gather, gather_what_is_there, shown
    from erase.batch.progress import Progress, failure_text, status

    progress = Progress(plan)
    try:
        board = run_batch(plan, told=progress, said=progress.say)
    except InterruptedRun:
        gather_what_is_there(plan)
        raise
    finally:
        progress.close()
    tables, found = gather(board), status(plan)
    left = found["all"] - found["done"]
    if as_json:
        print_json({**found, "tables": [table.as_dict() for table in tables]})
    else:
        click.echo(shown(tables, layout), nl=False)
    for failure in found["failed"]:
        click.echo(failure_text(failure), err=True)
    if left:
        click.echo(f"not done: {left} of {counted(found['all'], 'unit')}; repeat the command to go on", err=True)
        raise SystemExit(1)
    folder = plan.folder
    click.echo(f"records in {folder.results_path}, tables in {folder.tables_dir}: see {folder.report_path}", err=True)


def check_flags(*, dry_run: bool, only_status: bool, print_sbatch: bool, as_json: bool, layout: str) -> None:
    """Refuse flags that contradict each other or would have no effect (``UsageError``)."""
    asked = {"--dry-run": dry_run, "--status": only_status, "--print-sbatch": print_sbatch}
    chosen = [flag for flag, given in asked.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} print different things: give one of them")
    if as_json and print_sbatch:
        raise UsageError("--json has no effect with --print-sbatch: a script is no JSON")
    if layout != "text" and (chosen or as_json):
        raise UsageError(f"--format {layout} has no effect with {(chosen or ['--json'])[0]}: no table is printed")
