"""A launch in small: as a script, imports once and forks the processes of each scenario; their outcomes go to files.

``ranks_worker.py FOLDER`` takes every case of its ``cases.pickle`` alone and on two ranks, and runs each command line
of its ``scenarios.json`` on two.
"""

import copy
import json
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase.cli import main as command_line
from erase.config import EngineConfig
from erase.diffusion_task import DiffusionTask
from erase.evidence import forget_gradient_mask, measured_fisher
from erase.method import method_class
from erase.optimizers import PhaseMasks, PhaseStepper
from erase.update import Updater
from erase.workspace import Workspace
from pipelines import ranks
from pipelines.generate import generate_all
from pipelines.latents import Latents
from pipelines.replay import Replay, replay_latents
from pipelines.sampler import SamplerSettings

STEPS = 10
REQUESTS = [(label, seed) for label in (3, 0, 10) for seed in range(3)]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def exit_codes(pids: list[int]) -> list[int]:
    """How processes ended, once they have."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def started(work: Callable[[], int], *, world: int, folder: Path) -> list[int]:
    """Process numbers of a launch; what each prints goes to ``folder/RANK.out`` and ``RANK.err``."""
    folder.mkdir(parents=True, exist_ok=True)
    port, pids = free_port(), []
    for number in range(world):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        known = {
            "RANK": number,
            "LOCAL_RANK": number,
            "WORLD_SIZE": world,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        os.environ.update({name: str(value) for name, value in known.items()})
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        code = 1
        try:
            code = work()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    return pids


def run_cases(path: Path, folder: Path) -> None:
    """Gradients of the first step in float32 and weights after ten in float64, alone and on two ranks."""
    workspace, cases = pickle.loads(path.read_bytes())

    def work() -> int:
        with ranks.joined():
            found = {name: measured(copy.deepcopy(workspace), **case) for name, case in cases.items()}
            found["shared work"] = shared_work(copy.deepcopy(workspace))
            found["weights on other ranks"] = ranks.gathered(found["dual sfron"]["weights"])
            if ranks.is_first():
                torch.save(found, folder / f"{os.environ['WORLD_SIZE']}.pt")
        return 0

    pids = [pid for world in (1, 2) for pid in started(work, world=world, folder=folder / str(world))]
    assert exit_codes(pids) == [0, 0, 0], [path.read_text() for path in folder.glob("*/*.err")]


def measured(workspace: Workspace, *, method: str, options: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any]:
    """Losses and gradients of step 3 in float32; weights after ten steps with a mask in float64."""
    config, kind = EngineConfig(steps=STEPS, **engine), method_class(method)(**options)
    task = DiffusionTask(workspace=workspace, method=kind, engine=config)
    updater = Updater(task, PhaseStepper(task.parameters, config, masks=PhaseMasks()), config, seed=0)
    single = [getattr(updater, f"{side}_gradients")(3, 1) for side in ("forget", "retain")]
    found = {
        "losses": [[each.item() for each in vars(loss).values()] for loss, _ in single],
        "gradients": [gradients for _, gradients in single],
        "probe": task.probe_loss(),
    }

    casts = torch.Tensor.float
    torch.Tensor.float = lambda tensor: tensor if tensor.is_floating_point() else casts(tensor).double()
    try:
        task = DiffusionTask(workspace=doubled(workspace), method=kind, engine=config)
        mask = {name: each > 0.1 for name, each in task.workspace.forget_fisher.items()}
        stepper = PhaseStepper(task.parameters, config, masks=PhaseMasks(forget=mask))
        updater = Updater(task, stepper, config, seed=0)
        for step in range(STEPS):
            updater.run(step, measure=False)
    finally:
        torch.Tensor.float = casts
    return {**found, "weights": [each.detach() for each in task.parameters.values()]}


def doubled(workspace: Workspace) -> Workspace:
    """The workspace in float64."""
    for model in (workspace.model, workspace.reference):
        model.transformer.double()
        model.vae.double()
        model.noise_schedule.tables = {name: each.double() for name, each in model.noise_schedule.tables.items()}
    workspace.forget, workspace.retain = (
        Latents.in_memory(mean=each.mean.double(), std=each.std.double(), class_labels=each.class_labels)
        for each in (workspace.forget, workspace.retain)
    )
    for fisher in (workspace.forget_fisher, workspace.data_fisher):
        fisher.update({name: each.double() for name, each in fisher.items()})
    workspace.original_rows = workspace.original_rows.double()
    workspace.posterior.double()
    return workspace


def shared_work(workspace: Workspace) -> dict[str, Tensor]:
    """Preparations and samples that the ranks make in parts."""
    settings = SamplerSettings(sampler="dpm-solver++", num_inference_steps=3)
    fisher = measured_fisher(workspace, workspace.forget, "forget", num_samples=5, summed=False)
    mask = forget_gradient_mask(workspace, fraction=0.3, num_batches=3)
    replay = replay_latents(workspace.model, Replay(per_class=1), seed=0, cache_dir=None, progress=False, batch_size=3)
    return {
        "fisher": torch.cat([each.flatten() for each in fisher.values()]),
        "mask": torch.cat([each.flatten() for each in mask.values()]),
        "images": generate_all(workspace.model, REQUESTS, settings, batch_size=4),
        "replay": replay.mean,
        "labels": replay.class_labels,
    }


def run_scenarios(path: Path, folder: Path) -> None:
    """Command lines on two ranks, some of them stopped or made to fail; exit codes go to ``codes.json``."""
    codes = {}
    for name, scenario in json.loads(path.read_text()).items():
        pids = started(lambda: command(**scenario), world=2, folder=folder / name)  # noqa: B023
        if "until" in scenario:
            wait_for(Path(scenario["until"]))
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
        codes[name] = exit_codes(pids)
    (folder / "codes.json").write_text(json.dumps(codes))


def command(*, arguments: list[str], breaks: str = "", until: str = "") -> int:
    """One command line; ``breaks`` says what goes wrong on which rank."""
    number = int(os.environ["RANK"])
    if breaks == "save" and number == 0:
        from erase.api import cards

        cards.save = lambda *_, **__: (_ for _ in ()).throw(OSError("no space left on device"))
    if breaks == "loss":  # of rank 1 alone, from step 5 on
        loss_of, seen = DiffusionTask.forget_loss, []

        def wild(task: DiffusionTask, batch: Any) -> Any:
            seen.append(1)
            loss = loss_of(task, batch)
            return type(loss)(loss.objective * (torch.nan if number and len(seen) > 5 else 1), loss.denoising)

        DiffusionTask.forget_loss = wild
    if breaks == "seed" and number == 1:
        arguments = [*arguments, "--seed", "8"]
    command_line(arguments)
    return 0


def wait_for(path: Path) -> None:
    """Until a file is there, or a minute has gone."""
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    run_cases(place / "cases.pickle", place)
    run_scenarios(place / "scenarios.json", place)
