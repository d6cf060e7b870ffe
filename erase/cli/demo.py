"""``erase demo``: the whole story on the embedded digits model, in a few minutes on two cores."""

import shlex

import click

from . import print_json
from .options import common_options, shown_command

# Without the simulated attackers of the default, which take most of its time, and with one retain step for each forget
# step: the second one is for what the attackers cost the other classes.
QUICK = {"robust": False, "steps": 200, "forget_learning_rate": 4e-4, "retain_steps": 1, "retain_batch_size": 128}


@click.command(short_help="Erase a digit from the embedded model and show that it is gone.")
@click.option("--class", "forget_class", default="three", help="digit to erase, zero to nine [default: three]")
@click.option("--seed", type=int, default=0, help="seed of every random draw [default: 0]")
@common_options
def demo(forget_class: str, seed: int, output: str | None, device: str, as_json: bool) -> None:
    """Erase "three" from the embedded digits model and show that it is gone."""
    from erase import api
    from erase.rundir import RunDir

    options = {**QUICK, "seed": seed}
    asked = api.request("digits", [forget_class], options=options, output_dir=output or "runs/demo", device=device)
    folder = RunDir(asked.output_dir)
    if folder.state != "complete":
        click.echo(f"erasing {forget_class} from digits into {folder.path}: some three minutes on two cores", err=True)
    result = api.execute(asked, command=shown_command(), progress=True)
    print_json(result.summary()) if as_json else click.echo(result.text())
    probe = shlex.join(["erase", "probe", str(folder.path)])
    click.echo(f"next: open {folder.report_path}, or attack the result with `{probe}`", err=True)
