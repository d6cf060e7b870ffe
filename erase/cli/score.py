"""``erase eval`` and ``erase compare``: scores of any erased model, and tables of several runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipelines.files import check_output

from . import print_json
from .options import given_judges, judge_options, neighbours_option, table


@click.command(name="eval", short_help="Score an erased model against its original.")
@click.argument("model")
@click.argument("classes", nargs=-1, metavar="[CLASS]...")
@click.option("--original", default="", help="the model before the erasure [default: the one that MODEL remembers]")
@click.option("--vae", default="", help="VAE of original checkpoints: folder or hub id")
@click.option("--protocol", default=None, help="paper, full, quick or small [default: by the model]")
@judge_options
@neighbours_option
@click.option("--sweep", is_flag=True, help="also forget accuracy under other guidance, samplers, steps and precisions")
@click.option("--sweep-images", type=click.IntRange(1), default=100, help="of each class and condition [default: 100]")
@click.option(
    "--second-classifier", default="", help="a further judge in the sweep: timm model, NAME:WEIGHTS or folder"
)
@click.option("--output", type=click.Path(), default=None, help="also write the record to this JSON file")
@click.option("--device", default="auto", help="auto, cpu or cuda [default: auto]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def score(
    model: str,
    classes: tuple[str, ...],
    original: str,
    vae: str,
    protocol: str | None,
    neighbours: int | list[str] | None,
    sweep: bool,
    sweep_images: int,
    second_classifier: str,
    output: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Score MODEL against its original on identical noise; a run of this tool knows its CLASS... and its original."""
    if output:
        check_output(Path(output))
    from erase.api import evaluate
    from eval.evaluate import write_record

    record = evaluate(
        model,
        *classes,
        original=original,
        vae=vae,
        protocol=protocol,
        neighbours=neighbours,
        sweep=sweep,
        sweep_images=sweep_images,
        second_classifier=second_classifier,
        device=device,
        progress=True,
        **given_judges(),
    )
    if output:
        write_record(record, Path(output))
    print_json(record) if as_json else click.echo(in_words(record))


def in_words(record: Mapping[str, Any]) -> str:
    """A record for a terminal: every score in a sentence and, where there is a sweep, its table."""
    from eval.sweep import outcome, sweep_table
    from eval.words import caution, earlier_sentence, headline, ordered_keys, sentence

    sentences = [sentence(key, record) for key in ordered_keys(record)]
    sentences += [earlier_sentence(label, record) for label in record["earlier"]]
    sentences += filter(None, [caution(record)])
    lines = [headline(record), *(f"  {each}" for each in sentences)]
    if record.get("sweep"):
        rows = [
            (row["condition"], row["erased"], row["interval"], *row["others"], row["original"], "<" * row["worst"])
            for row in sweep_table(record["sweep"])
        ]
        header = ("condition", "erased", "95 % interval", "top 5", "probability", "original", "")
        lines += ["", table(rows, header), outcome(record["sweep"])]
    return "\n".join(lines)


@click.command(short_help="Put several runs into one table.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "layout", type=click.Choice(["text", "markdown", "csv"]), default="text", help="of the table")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def compare(runs: tuple[str, ...], layout: str, as_json: bool) -> None:
    """Put several runs into one table; runs that were scored under unlike protocols are refused."""
    from erase.rundir import find_scored_run
    from eval.compare import compare_records, comparison_table
    from eval.evaluate import read_record

    records = {run: read_record(find_scored_run(run).results_path) for run in runs}
    print_json(compare_records(records)) if as_json else click.echo(comparison_table(records, layout=layout))
