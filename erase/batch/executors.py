"""Where workers run: in this process, in processes of this machine, or in the elements of a SLURM array job.

An executor starts workers and says how many of them are left; everything else is in the folder of the batch.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.errors import InterruptedRun, MissingError
from pipelines.text import counted

from .claims import forget_lost
from .jobs import Executor, Jobs
from .plan import Plan
from .worker import Board, start, work

PATIENCE = 10.0  # seconds that a stopped worker has to end by itself
LOOK = 2.0  # seconds between two looks at the board


class Workers(ABC):
    """The interface of an executor whose workers are elsewhere."""

    @abstractmethod
    def start(self, jobs: Jobs, logs: Path) -> str:
        """Start the workers; returns a sentence about them."""

    @abstractmethod
    def num_left(self) -> int:
        """How many have not ended."""

    @abstractmethod
    def stop(self) -> str:
        """Act on a stop request; returns a sentence about what becomes of the work."""


class Processes(Workers):
    """Processes of this machine: each with a GPU of its own where there are any."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, jobs: Jobs, logs: Path) -> str:
        """Start them, each with its own log."""
        for number in range(jobs.executor.workers):
            with (logs / f"worker-{number}.txt").open("ab") as stream:
                self.running.append(
                    subprocess.Popen(
                        worker_command(jobs), env={**os.environ, **device_of(number)}, stdout=stream, stderr=stream
                    )
                )
        return f"{counted(len(self.running), 'process', plural='processes')}, logs in {logs}"

    def num_left(self) -> int:
        """How many are running."""
        return sum(process.poll() is None for process in self.running)

    def stop(self) -> str:
        """End them as Ctrl-C would; runs keep their checkpoints."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while self.num_left() and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()
        return "the processes were ended"


class Slurm(Workers):
    """The elements of an array job."""

    def __init__(self) -> None:
        self.job = ""

    def start(self, jobs: Jobs, logs: Path) -> str:
        """Submit one array job (``MissingError`` without submitit or SLURM)."""
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise MissingError("--executor slurm needs submitit: pip install 'dit-erase[slurm]'") from error
        try:
            executor = submitit.AutoExecutor(folder=logs / "slurm", cluster="slurm")
        except RuntimeError as error:
            raise MissingError(f"--executor slurm: no SLURM here ({error}); --print-sbatch needs none") from error
        executor.update_parameters(**slurm_parameters(jobs.executor))
        array = executor.map_array(start, [str(jobs.path.absolute())] * jobs.executor.workers)
        self.job = array[0].job_id.partition("_")[0]
        return f"SLURM job {self.job} with {len(array)} elements, their logs in {logs / 'slurm'}"

    def num_left(self) -> int:
        """How many elements wait or run; none once SLURM has forgotten the job."""
        command = ["squeue", "--noheader", "--array", "--jobs", self.job, "--format", "%T"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return 0 if found.returncode else len(found.stdout.split())

    def stop(self) -> str:
        """Leave the job alone: it needs nobody to wait for it."""
        return f"SLURM job {self.job} goes on; --status shows how far it is, and scancel {self.job} ends it"


def worker_command(jobs: Jobs) -> list[str]:
    """The command of one worker."""
    return [sys.executable, "-m", "erase.batch.worker", str(jobs.path.absolute())]


def device_of(number: int) -> dict[str, str]:
    """The environment that gives a worker one GPU; none on a machine without."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if count else []
    chosen = [name for name in visible if name] or [str(index) for index in range(count)]
    return {"CUDA_VISIBLE_DEVICES": chosen[number % count]} if count else {}


def slurm_parameters(executor: Executor) -> dict[str, object]:
    """What submitit is told; settings that were not given are left to SLURM."""
    given = {
        "slurm_partition": executor.partition,
        "slurm_account": executor.account,
        "slurm_gpus_per_node": executor.gpus,
        "mem_gb": executor.memory_gb,
        "slurm_setup": list(executor.setup),
    }
    fixed = {
        "name": "erase-batch",
        "timeout_min": executor.minutes,
        "cpus_per_task": executor.cpus,
        "slurm_array_parallelism": executor.workers,
    }
    return {**fixed, **{key: value for key, value in given.items() if value}}


def sbatch_script(jobs: Jobs) -> str:
    """The script that does with ``sbatch`` what the executor does through submitit."""
    executor = jobs.executor
    options = {
        "job-name": "erase-batch",
        "array": f"0-{executor.workers - 1}",
        "time": executor.minutes,
        "cpus-per-task": executor.cpus,
        "partition": executor.partition,
        "account": executor.account,
        "gpus-per-node": executor.gpus,
        "mem": f"{executor.memory_gb}G" if executor.memory_gb else "",
        "chdir": Path.cwd(),
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    return "\n".join(["#!/bin/bash", *lines, *executor.setup, shlex.join(worker_command(jobs)), ""])


def run_batch(plan: Plan, *, told: Callable[[Board], None], said: Callable[[str], None]) -> Board:
    """Do the work with the executor of the jobs file; ``told`` hears of the board, ``said`` sentences.

    Ctrl-C stops the workers of this machine and leaves those of SLURM.
    """
    plan.folder.create()
    plan.folder.forget_failures()
    forget_lost(plan.folder.workers_dir)
    if plan.jobs.executor.name == "local":
        return work(plan, told=told)
    board = Board(plan)
    board.look()
    if not board.open_units():
        return board
    workers = {"processes": Processes, "slurm": Slurm}[plan.jobs.executor.name]()
    said(workers.start(plan.jobs, plan.folder.logs_dir))
    try:
        while True:
            left = workers.num_left()  # before the look, so that the last outcomes are seen
            board.look()
            told(board)
            if not left or not board.open_units():
                return board
            time.sleep(LOOK)
    except KeyboardInterrupt as error:
        raise InterruptedRun(f"stopped: {workers.stop()}; repeat the same command to go on") from error
