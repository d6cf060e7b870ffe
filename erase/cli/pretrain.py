"""``erase pretrain``: a small class-conditional model from nothing."""

from pathlib import Path
from typing import Any

import click

from . import print_json


@click.command(short_help="Train a small model: VAE, DiT and classifier.")
@click.argument("source")
@click.option("--output", type=click.Path(), default=None, help="model folder [default: models/NAME]")
@click.option("--image-size", type=click.Choice(["32", "64"]), default="32", help="pixels [default: 32]")
@click.option("--without", multiple=True, help="class to leave out of the DiT's training; may be repeated")
@click.option(
    "--parts-of", default=None, help="model whose VAE and classifier are reused [default with --without: digits]"
)
@click.option("--steps", type=click.IntRange(1), default=None, help="training steps of the transformer")
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of every random draw [default: 0]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def pretrain(
    source: str,
    output: str | None,
    image_size: str,
    without: tuple[str, ...],
    parts_of: str | None,
    steps: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train VAE, DiT and classifier on SOURCE: digits, or a folder or zip with a folder for each class."""
    from erase.api.pretraining import score_pretrained, write_card
    from pipelines.model import load
    from pipelines.pretrain.recipe import Recipe
    from pipelines.pretrain.train import pretrain as train

    settings: dict[str, Any] = {"image_size": int(image_size), "seed": seed}
    if steps is not None:
        settings["transformer_steps"] = steps
    folder = Path(output) if output else Path("models") / "-without-".join([Path(source).stem, *without])
    shared = parts_of or ("digits" if without and source == "digits" else None)
    model = train(
        source,
        folder,
        recipe=Recipe(**settings),
        without=without,
        parts_of=load(shared) if shared else None,
        progress=True,
    )
    scores = score_pretrained(model, progress=True)
    write_card(model, scores, folder)
    summary = {"model": str(folder), "classes": list(model.classes.labels), "scores": scores}
    print_json(summary) if as_json else click.echo((folder / "README.md").read_text())
