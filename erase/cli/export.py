"""``erase export`` and ``erase apply``: other forms of an erased model, and back."""

import click

from . import print_json


@click.command(short_help="Write an erased model as one file.")
@click.argument("run")
@click.option("--format", "form", type=click.Choice(["original", "delta"]), required=True, help="of the file")
@click.option("--output", type=click.Path(), required=True, help="file to write: .pt or .safetensors")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def export(run: str, form: str, output: str, as_json: bool) -> None:
    """Write the erased model of RUN for the original DiT code, or as a delta of what changed.

    A delta is reversible: whoever holds the base and the delta holds both models.
    """
    from erase.api.exporting import export as write

    path = write(run, output, form=form)
    print_json({"output": str(path), "format": form, "bytes": path.stat().st_size}) if as_json else click.echo(path)


@click.command(short_help="Rebuild an erased model from its base and a delta.")
@click.argument("base")
@click.argument("delta")
@click.option("--vae", default="", help="VAE of an original checkpoint: folder or hub id")
@click.option("--output", type=click.Path(), required=True, help="model folder to write")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def apply(base: str, delta: str, vae: str, output: str, as_json: bool) -> None:
    """Put DELTA onto BASE (folder, hub id or checkpoint) and write the erased model, bit for bit."""
    from erase.api.exporting import apply as rebuild

    folder = rebuild(delta, output, base=base, vae=vae)
    print_json({"output": str(folder)}) if as_json else click.echo(folder)
