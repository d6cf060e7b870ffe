"""Executors: what SLURM is told, and the same records from processes and from SLURM, with workers lost on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from erase.batch.executors import Slurm, device_of, sbatch_script, slurm_parameters
from erase.batch.jobs import Executor
from eval.evaluate import read_record
from pipelines.errors import MissingError

PLACES = ("models", "asked", "batch")  # of a record: where things were, not what was measured


def has_slurm():
    """Whether a SLURM answers here."""
    return bool(shutil.which("sinfo")) and subprocess.run(["sinfo", "-h"], capture_output=True).returncode == 0


@pytest.fixture
def cluster():
    """Everything that a job can ask for."""
    return Executor(
        name="slurm", workers=8, partition="gpu", minutes=90, gpus=1, cpus=4, memory_gb=64, account="lab",
        setup=("module load cuda", "source venv/bin/activate"),
    )  # fmt: skip


def measured(plan):
    """The measured part of every record by seed."""
    records = [read_record(unit.path(plan.folder)) for unit in plan.of_kind("record")]
    return {each["batch"]["seed"]: {key: each[key] for key in each if key not in PLACES} for each in records}


def test_slurm_is_told_what_the_file_says(cluster):
    assert slurm_parameters(cluster) == {
        "name": "erase-batch", "timeout_min": 90, "cpus_per_task": 4, "slurm_array_parallelism": 8,
        "slurm_partition": "gpu", "slurm_account": "lab", "slurm_gpus_per_node": 1, "mem_gb": 64,
        "slurm_setup": ["module load cuda", "source venv/bin/activate"],
    }  # fmt: skip
    assert set(slurm_parameters(Executor())) == {"name", "timeout_min", "cpus_per_task", "slurm_array_parallelism"}


def test_the_script_says_the_same(planned, cluster):
    script = sbatch_script(replace(planned("script").jobs, executor=cluster))
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash" and lines[-3:-1] == ["module load cuda", "source venv/bin/activate"]
    assert {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")} >= {
        "array=0-7", "time=90", "partition=gpu", "account=lab", "gpus-per-node=1", "mem=64G", "cpus-per-task=4",
    }  # fmt: skip
    assert lines[-1].startswith(f"{sys.executable} -m erase.batch.worker /") and lines[-1].endswith("script.yaml")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_without_slurm_the_executor_is_refused(planned, monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"no SLURM here .*--print-sbatch"):
        Slurm().start(planned("nowhere").jobs, tmp_path)


def test_without_submitit_the_extra_is_named(planned, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingError, match=r"pip install 'dit-erase\[slurm\]'"):
        Slurm().start(planned("nowhere").jobs, tmp_path)


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [device_of(number)["CUDA_VISIBLE_DEVICES"] for number in range(3)] == ["4", "7", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert device_of(1) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_of(0) == {}


@pytest.mark.slow
def test_processes_give_the_same_records_though_one_is_killed(planned, worked, finished):
    plan = planned("killed", executor={"name": "processes", "workers": 2})
    claims = plan.folder.claims_dir

    killed, deadline = [], time.monotonic() + 120

    def kill():
        while not killed and time.monotonic() < deadline:
            time.sleep(0.2)
            for text in [path.read_text() for path in claims.glob("run-*")]:
                if text and not killed:  # not while it is being written
                    killed.append(json.loads(text)["pid"])
                    os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    board = worked(plan)
    thread.join()
    assert killed and len(board.done) == len(plan.units) and measured(plan) == measured(finished)


@pytest.mark.slow
@pytest.mark.skipif(not has_slurm(), reason="needs a SLURM that answers to sinfo")
def test_slurm_gives_the_same_records(planned, worked, finished):
    pytest.importorskip("submitit")
    plan = planned("slurm", executor={"name": "slurm", "workers": 2})
    board = worked(plan)
    assert len(board.done) == len(plan.units) and measured(plan) == measured(finished)
