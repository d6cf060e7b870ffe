"""What a batch costs beside the work itself: its time against drawing and scoring the same images alone.

    python -m benchmarks.batch_overhead runs/digits-table --models 24

takes the runs of a finished batch. Alone, each model is loaded, and its images drawn and scored in blocks, in one
process; the batch does the same through plan, claims, shards, checksums, records and tables, in a new folder. Reading
the real images and making records belong to the batch's side alone. Seconds are those of a core that this process had,
so that other programs count as little as they can.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml

from erase.batch.folder import BatchDir
from erase.batch.gather import gather
from erase.batch.jobs import read_jobs
from erase.batch.loaded import Loaded
from erase.batch.plan import Plan, make_plan
from erase.batch.worker import work
from eval.blocks import score_block
from pipelines.files import write_text

LIMIT = 1.15


def plan_of(runs: list[Path], home: Path, *, images: int, steps: int) -> Plan:
    """A batch that scores the runs in a new folder."""
    protocol = {
        "name": "small", "num_forget_images": images // 2, "num_retain_images": images - images // 2,
        "num_inference_steps": steps,
    }  # fmt: skip
    jobs = {"models": [{"path": list(map(str, runs))}], "protocols": [protocol]}
    write_text(yaml.safe_dump(jobs), home / "jobs.yaml")
    return make_plan(read_jobs(home / "jobs.yaml"))


def seconds_alone(plan: Plan) -> float:
    """Loading every model once, drawing and scoring its images: seconds of a core."""
    started, loaded = time.process_time(), Loaded(BatchDir(plan.folder.path))
    for unit in plan.of_kind("shard"):
        draw, asked = unit.draw, unit.draw.comparison
        model, scorer = loaded.model(draw), loaded.scorer(asked)
        for block in draw.blocks()[unit.first_block :][: unit.num_blocks]:
            score_block(
                model, block, draw.metrics(scorer), settings=asked.protocol.sampler_settings(), scorer=scorer,
                context=draw.context(scorer), size=draw.block,
            )  # fmt: skip
    return time.process_time() - started


def seconds_of_batch(runs: list[Path], *, images: int, steps: int) -> float:
    """Plan, work, records and tables in a new folder."""
    with tempfile.TemporaryDirectory() as home:
        started = time.process_time()
        gather(work(plan_of(runs, Path(home), images=images, steps=steps)))
        return time.process_time() - started


def main() -> None:
    """Measure in rounds that take turns, and print the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("batch", type=Path, help="folder of a finished batch")
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--images", type=int, default=200, help="of each model")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = sorted(BatchDir(asked.batch).runs_dir.iterdir())[: asked.models]
    rounds = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as home:
            alone = seconds_alone(plan_of(runs, Path(home), images=asked.images, steps=asked.steps))
        batch = seconds_of_batch(runs, images=asked.images, steps=asked.steps)
        rounds.append({"alone": alone, "batch": batch, "ratio": batch / alone})
    ratio = statistics.median(each["ratio"] for each in rounds)
    print(
        json.dumps({"models": len(runs), "median_ratio": ratio, "within": ratio <= LIMIT, "rounds": rounds}, indent=2)
    )


if __name__ == "__main__":
    main()
