"""Every speed benchmark, one result file and one table.

    python -m benchmarks.all                  on a CPU, one thread
    python -m benchmarks.all --device cuda    on a GPU, with DiT-XL/2
    python -m benchmarks.all --only step      some of them; the others keep their results in the file

Each compares the product with the plain loop of ``benchmarks/speed/baseline.py`` on one thread, in rounds that take
turns, after an equality gate; ``benchmarks/results/speed-cpu.json`` holds every ratio with its spread.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.erasures import RESULTS
from benchmarks.speed import growth, overhead, readings
from benchmarks.speed.pairs import as_records, machine
from pipelines.files import read_json, write_json

PAIRED = ("step", "fisher", "sampling", "features", "distances", "end_to_end")
Record = dict[str, Any]


def run(names: Sequence[str], device: torch.device, record: Record) -> Record:
    """The record with the results of the named benchmarks in the place of earlier ones."""
    for name in names:
        if name in PAIRED:
            found: Any = as_records(importlib.import_module(f"benchmarks.speed.{name}").measure(device))
        elif name == "overhead":
            found = {"shares": overhead.measure(device), "at most": overhead.AT_MOST}
        elif name == "readings":
            found = readings.as_records(readings.measure(device))
        else:
            found = [growth.as_record(curve) for curve in growth.measure(device)]
        record = {**record, name: {"machine": machine(device), "results": found}}
    return record


def table(record: Record) -> str:
    """The ratios as Markdown, what was asked for beside them."""
    lines = [
        "| work | case | arithmetic | plain loop | ours | times faster | asked for |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for name in PAIRED:
        for row in record.get(name, {}).get("results", []):
            spread = f"{row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})"
            asked = f"{row['at_least']:g}" if row["at_least"] else ""
            cells = (
                row["benchmark"],
                row["case"],
                row["lane"],
                f"{row['baseline_seconds']:.3g} s",
                f"{row['seconds']:.3g} s",
            )
            lines.append(f"| {' | '.join((*cells, spread, asked))} |")
    return "\n".join(lines)


def share_lines(record: Record) -> list[str]:
    """Overheads in words."""
    shares = record.get("overhead", {}).get("results", {}).get("shares", {})
    words = {
        "engine": "of the loop outside forward, backward and optimizer",
        "guard": "of the loop in the guard's forward passes",
        "sampler": "of sampling outside the network",
    }
    return [f"{share:.1%} {words[part]}" for part, share in shares.items()]


def missed(record: Record) -> list[str]:
    """Everything that was asked for and not reached."""
    rows = [row for name in PAIRED for row in record.get(name, {}).get("results", [])]
    found = [f"{row['benchmark']}, {row['case']}, {row['lane']}" for row in rows if row["ratio"] < row["at_least"]]
    overheads = record.get("overhead", {}).get("results", {"shares": {}, "at most": {}})
    found += [part for part, most in overheads["at most"].items() if overheads["shares"][part] > most]
    curves = record.get("growth", {}).get("results", [])
    return found + [f"{each['what']} by {each['by']}" for each in curves if each["exponent"] > growth.STEEPEST]


def main() -> None:
    """Run, write and print; exit code 3 where something that is asked for was missed."""
    names = (*PAIRED, "overhead", "growth", "readings")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"speed-{asked.device}.json"
    record = read_json(path) if path.exists() else {}
    for name in tqdm(asked.only, desc="benchmarks", unit="benchmark"):
        record = run([name], torch.device(asked.device), record)
        write_json(record, path)
    if "growth" in asked.only:
        growth.draw(record["growth"]["results"], RESULTS / f"growth-{asked.device}.png")
    record = {name: record[name] for name in asked.only}
    print(table(record))
    print("\n".join([*share_lines(record), *readings.lines(record.get("readings", {}).get("results", []))]))
    if found := missed(record):
        print(f"missed: {', '.join(found)}", file=sys.stderr)
        raise SystemExit(3)


if __name__ == "__main__":
    main()
