"""``erase cache`` and ``erase stats``: work on data that can be done ahead, once for many runs."""

from pathlib import Path

import click

from pipelines.errors import UsageError
from pipelines.text import counted

from . import print_json
from .options import given_judges, judge_options, model_option


@click.command(short_help="Encode a data set to latents ahead of any run.")
@click.argument("source")
@model_option("digits, folder, hub id or checkpoint")
@click.option("--vae", default="", help="VAE of an original checkpoint [default: stabilityai/sd-vae-ft-ema]")
@click.option("--device", default="auto", help="auto, cpu or cuda [default: auto]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def cache(source: str, model: str, vae: str, device: str, as_json: bool) -> None:
    """Encode SOURCE (folder, archive, save_to_disk folder or digits) with the model's VAE, once for all runs.

    An encoding that was stopped goes on where it was.
    """
    from erase.api.data import cache_latents

    found = cache_latents(source, model, vae=vae, device=device)
    if as_json:
        print_json(found)
    else:
        images, classes = counted(found["images"], "image"), counted(found["classes"], "class", plural="classes")
        click.echo(f"{images} of {classes} in {found['cache']}")


@click.group(short_help="Statistics of real images to compare samples with.")
def stats() -> None:
    """Make reference statistics once, and read those of any tool."""


@stats.command(short_help="Statistics of a folder or archive of real images.")
@click.argument("source")
@model_option("whose classes name the folders, and whose image size is used: digits, folder or hub id")
@click.option("--protocol", default="quick", help="whose classifier and features [default: quick]")
@click.option("--output", type=click.Path(), required=True, help="npz to write")
@judge_options
@click.option("--device", default="auto", help="auto, cpu or cuda [default: auto]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def make(
    source: str,
    model: str,
    protocol: str,
    output: str,
    device: str,
    as_json: bool,
) -> None:
    """Observe every image of SOURCE as a protocol does and write statistics from which any class can be taken out."""
    from erase.api.data import write_statistics
    from erase.api.judging import Judges

    judges = Judges(**given_judges())
    if judges.reference is not None:
        raise UsageError(f"--reference {judges.reference} has no effect: SOURCE is what is observed")
    found = write_statistics(source, model, Path(output), protocol=protocol, judges=judges, device=device)
    print_json(found) if as_json else click.echo(
        f"{counted(found['n'], 'image')}, {found['feature_space']} features: {output}"
    )


@stats.command(short_help="What a file of statistics holds.")
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def show(path: str, as_json: bool) -> None:
    """Describe an npz of `erase stats make`, of ADM or of clean-fid."""
    from eval.moments import load_gaussian

    gaussian, meta = load_gaussian(Path(path))
    found = {"n": gaussian.n, "dimensions": len(gaussian.mean), **meta}
    print_json(found) if as_json else click.echo("\n".join(f"{key}  {value}" for key, value in found.items()))
