"""``erase export`` and ``erase apply``: other forms of an erased model, its release on the hub, and back."""

import click

from pipelines.errors import UsageError

from . import print_json


@click.command(short_help="Write an erased model as one file, or release it on the hub.")
@click.argument("run")
@click.option("--format", "form", type=click.Choice(["original", "delta", "diffusers"]), required=True, help="of it")
@click.option("--output", type=click.Path(), default=None, help="file to write: .pt or .safetensors")
@click.option(
    "--push-to-hub", "repository", default=None, metavar="OWNER/NAME", help="upload the diffusers folder there"
)
@click.option("--public", is_flag=True, help="for everyone to see [default: private]")
@click.option("--unscored", is_flag=True, help="release a run that has no scores")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def export(
    run: str, form: str, output: str | None, repository: str | None, public: bool, unscored: bool, as_json: bool
) -> None:
    """Write the erased model of RUN for the original DiT code or as a delta, or upload it for diffusers.

    A delta is reversible: whoever holds the base and the delta holds both models. What is uploaded is the model folder
    of RUN with its card; a folder that holds anything else is refused.
    """
    from erase.api.exporting import export as write
    from erase.api.publishing import publish

    check_target(form, run, output=output, repository=repository, release_flags=public or unscored)
    if repository is not None:
        address = publish(run, repository, public=public, unscored=unscored)
        print_json({"address": address, "private": not public}) if as_json else click.echo(address)
        return
    path = write(run, output, form=form)
    print_json({"output": str(path), "format": form, "bytes": path.stat().st_size}) if as_json else click.echo(path)


def check_target(form: str, run: str, *, output: str | None, repository: str | None, release_flags: bool) -> None:
    """A file format goes to ``--output`` alone, diffusers to ``--push-to-hub`` alone (``UsageError``)."""
    if form == "diffusers":
        if output is not None:
            raise UsageError(f"--output {output} has no effect: {run}/model is a diffusers folder already; copy it")
        if repository is None:
            raise UsageError(f"--format diffusers needs --push-to-hub OWNER/NAME; the folder itself is {run}/model")
    elif repository is not None or release_flags:
        raise UsageError(f"--push-to-hub, --public and --unscored need --format diffusers, not {form}")
    elif output is None:
        raise UsageError(f"--format {form} needs --output FILE")


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
