"""The shape of facebook/DiT-XL-2-256 with random weights, through the command line: one step, its memory, the plan."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from PIL import Image

from pipelines.classes import ClassNames
from pipelines.diffusion import NoiseSchedule
from pipelines.embedding import tie_embedders
from pipelines.model import DiT, save

WNIDS = ("n02099601", "n01440764")  # golden retriever, tench
ONE_STEP = ["--steps", "1", "--forget-learning-rate", "1e-6", "--retain-learning-rate", "1e-6",
            "--forget-batch-size", "1", "--retain-batch-size", "1", "--precision", "bf16",
            "--no-diagnostics", "--memory", "fixed", "--protocol", "none", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def xl2_folder(tmp_path: Path) -> Path:
    """The real transformer with random weights and a thin VAE with its eight-fold reduction."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32,
        patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    first, *others = (block.norm1.emb for block in transformer.transformer_blocks)
    for other in others:
        other.load_state_dict(first.state_dict())
    tie_embedders(transformer, time_embedding="diffusers")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=256,
    )  # fmt: skip
    model = DiT(
        transformer=transformer.eval(), vae=vae.eval(), noise_schedule=NoiseSchedule(), classes=ClassNames.imagenet()
    )
    return save(model, tmp_path / "xl2")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two noisy pictures of each of two classes."""
    draws = np.random.default_rng(0)
    for wnid in WNIDS:
        (tmp_path / "images" / wnid).mkdir(parents=True)
        for number in range(2):
            pixels = draws.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / wnid / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.slow
@pytest.mark.parametrize(("optimizers", "gibibytes"), [("shared", 15), ("dual", 20)])
def test_one_step_of_xl2_takes_the_memory_that_the_plan_counts(
    xl2_folder, photographs, tmp_path, optimizers, gibibytes
):
    """An alternating step of gradient_ascent in bf16 autocast."""
    if psutil.virtual_memory().available < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes} GiB of free memory")
    command = [sys.executable, "-m", "erase", "run", "golden retriever", "--model", str(xl2_folder), "--method",
               "gradient_ascent", "--optimizers", optimizers, "--data", str(photographs), *ONE_STEP]  # fmt: skip
    env = {**os.environ, "ERASE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.getcwd()}
    plan = json.loads(
        subprocess.run([*command, "--dry-run", "--json"], env=env, capture_output=True, check=True).stdout
    )
    assert plan["trainable_weights"] == 674_834_720
    planned = max(phase["total"] for phase in plan["memory"].values())

    measured, seconds = peak_memory([*command, "--output", str(tmp_path / "run")], env=env)
    sizes = f"measured {measured / 2**30:.2f} GiB in {seconds:.0f} s, planned {planned / 2**30:.2f} GiB"
    print(f"\n{optimizers} optimizers: {sizes}")
    assert measured == pytest.approx(planned, rel=0.1)


def peak_memory(command: list[str], *, env: dict[str, str]) -> tuple[int, float]:
    """Most resident memory of a command in bytes, and its seconds."""
    script = (
        "import resource, subprocess, sys, time; started = time.monotonic(); subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, time.monotonic() - started)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], env=env, stdout=subprocess.PIPE, check=True)
    size, seconds = done.stdout.decode().split()[-2:]
    return int(size), float(seconds)
