"""``erase probe``: is the class gone, or only hidden?"""

from dataclasses import asdict

import click

from pipelines.text import counted

from . import print_json


@click.command(short_help="Attack an erased model: is the class gone, or only hidden?")
@click.argument("run")
@click.argument("probes", nargs=-1, metavar="[PROBE]...")
@click.option("--budget", default="quick", help="quick or full [default: quick]")
@click.option("--data", default=None, help="the attacker's images [default: those of the run]")
@click.option(
    "--retrained", default=None, help="model that `erase pretrain` made without the erased classes, the floor"
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=None, help="what an attacker draws [default: that of the run]"
)
@click.option("--device", default="auto", help="auto, cpu or cuda [default: auto]")
@click.option("--dry-run", is_flag=True, help="print what the probes would take, and attack nothing")
@click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object")
def probe(
    run: str,
    probes: tuple[str, ...],
    budget: str,
    data: str | None,
    retrained: str | None,
    seed: int | None,
    device: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Attack the erased model of RUN with PROBE... (all unless named) and put what came back into its report."""
    from erase.api.probing import probe as attack
    from eval.gap import gap_to_retrain
    from eval.probe_parts import attack_lines
    from eval.recovery import recovery

    if dry_run:
        from erase.api import probe_plan

        found = probe_plan.plan(run, probes=probes, budget=budget, data=data, retrained=retrained, device=device)
        print_json(found) if as_json else click.echo(probe_plan.text(found))
        return
    record = attack(run, probes=probes, budget=budget, data=data, retrained=retrained, seed=seed, device=device)
    gap = gap_to_retrain(record)
    if as_json:
        recovered = {name: recovery(rows) for name, rows in record["probes"].items()}
        told = {"probes": record["probes"], "recovery": recovered, "attacks": record["attacks"]}
        told |= {"by_class": record["by_class"]} if "by_class" in record else {}
        print_json(told | ({"gap_to_retrain": asdict(gap)} if gap else {}))
        return
    for name in record["probes"]:
        click.echo("\n".join(attack_lines(record, name)))
    if gap:
        compared = counted(len(gap.differences), "value")
        click.echo(f"gap to retrain: {gap.value:.1%}, the mean absolute difference over {compared}")
