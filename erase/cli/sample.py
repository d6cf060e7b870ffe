"""``erase sample``: images of any classes from any model, as one picture or as an archive for other tools."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.files import check_output

from . import print_json
from .options import given_sampler, model_option, sampler_options

if TYPE_CHECKING:
    from torch import Tensor


@click.command(short_help="Draw a picture of any classes.")
@click.argument("classes", nargs=-1, required=True, metavar="CLASS...")
@model_option("digits, folder, run directory or hub id")
@click.option("--vae", default="", help="VAE of an original checkpoint: folder or hub id")
@click.option("--num-images", type=click.IntRange(1), default=8, help="images of each class [default: 8]")
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the first image [default: 0]")
@sampler_options
@click.option(
    "--output",
    type=click.Path(),
    default="samples.png",
    help=".png, or .npz for the ADM evaluator [default: samples.png]",
)
@click.option("--device", default="auto", help="auto, cpu or cuda [default: auto]")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def sample(
    classes: tuple[str, ...],
    model: str,
    vae: str,
    num_images: int,
    seed: int,
    output: str,
    device: str,
    as_json: bool,
) -> None:
    """Draw CLASS... with seeds SEED, SEED + 1, ... and write one picture, a row for each class, or one npz."""
    from erase.api.devices import pick_device
    from pipelines.generate import generate
    from pipelines.model import load
    from pipelines.model_source import load_classes
    from pipelines.sampler import SamplerSettings

    # Everything cheap first: settings, classes, output.
    settings = SamplerSettings(**given_sampler())
    labels = list(map(load_classes(model).resolve, classes))
    check_output(Path(output), suffixes=(".png", ".npz"))

    bundle = load(model, vae=vae, device=pick_device(device))
    settings = replace(settings, guided_channels=bundle.guided_channels)
    requests = [(label, seed + number) for label in labels for number in range(num_images)]
    drawn = generate(bundle, requests, settings, progress="sampling")
    write_images(drawn, Path(output), rows=len(labels), columns=num_images)
    told = {
        "output": output,
        "class_labels": labels,
        "num_images": num_images,
        "seed": seed,
        "settings": vars(settings),
    }
    print_json(told) if as_json else click.echo(output)


def write_images(drawn: "Iterable[tuple[Tensor, Tensor]]", path: Path, *, rows: int, columns: int) -> None:
    """Batches of images and labels as one picture of some rows, or as an npz where the path ends in that."""
    import torch

    from eval.pictures import grid, save_archive, save_png

    if path.suffix == ".npz":
        save_archive(drawn, path, count=rows * columns)
        return
    images = torch.cat([images for images, _ in drawn])
    save_png(grid(images, columns=columns, scale=max(1, 128 // images.shape[-1])), path)
