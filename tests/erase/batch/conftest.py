"""Small batches on the tiny model."""

from pathlib import Path

import pytest
import yaml

from erase.batch.executors import run_batch
from erase.batch.jobs import read_jobs
from erase.batch.plan import Plan, make_plan
from erase.batch.worker import Board

PROTOCOL = {"name": "small", "num_inference_steps": 2, "num_forget_images": 4, "num_retain_images": 17}


@pytest.fixture(scope="session")
def planned(judged_model, pictures, tmp_path_factory, erase_cache):
    """``planned(folder, seeds, **keys)``: the plan of a batch that erases three from the tiny model."""
    home = tmp_path_factory.mktemp("batches")

    def make(folder: str = "batch", seeds: tuple[int, ...] = (0, 1), **keys) -> Plan:
        runs = {
            "model": judged_model, "methods": ["gradient_ascent"], "classes": ["three"], "seeds": list(seeds),
            "data": pictures, "settings": {"steps": 1, "forget_batch_size": 8, "retain_batch_size": 8},
        }  # fmt: skip
        jobs = {"runs": [runs], "protocols": [PROTOCOL], "reference": pictures, "block": 3, "shard_blocks": 2}
        path = home / f"{folder}.yaml"
        path.write_text(yaml.safe_dump({**jobs, **keys}))
        return make_plan(read_jobs(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERASE_CACHE", str(erase_cache))
        yield make


@pytest.fixture(scope="session")
def worked():
    """``worked(plan)``: the board after the work of one plan."""

    def make(plan: Plan) -> Board:
        return run_batch(plan, told=lambda board: None, said=lambda sentence: None)

    return make


@pytest.fixture(scope="session")
def finished(planned, worked):
    """A batch of two models that is done; a test that harms it mends it."""
    plan = planned()
    assert len(worked(plan).done) == len(plan.units)
    return plan


@pytest.fixture
def contents():
    """``contents(folder)``: the bytes of every file below a folder, by its path there."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
