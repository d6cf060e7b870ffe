"""Attacks on the default beyond the full budget: one that lasts longer, and one that is counted step by step.

    python -m benchmarks.beyond_budget

A label row is learned for four times as long as the attackers live that the default trains against. The strongest
fine-tuning has half of a class back before the first step that the full budget counts; here every step counts.
Resumable: some twelve minutes of a core for each class and model; the models are those of ``benchmarks.probe_table
--default`` and are made where they are not below ``--work``.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.attacks import (
    SIDES,
    YARDSTICKS,
    Subject,
    Yardstick,
    attack_missing,
    budget_against,
    by_key,
    make_floor,
)
from benchmarks.erasures import RESULTS
from benchmarks.lines import Line
from benchmarks.probe_summary import percent
from benchmarks.relearning_pace import Curve, best_by_step, steps_in_words
from erase.config import config_hash
from erase.configure import DEFAULT_METHOD
from erase.rundir import cache_dir
from eval.probe import AMOUNTS
from eval.recovery import steps_to_half
from pipelines.pretrain.recipe import Recipe
from pipelines.text import markdown_table

# At the end of the full budget the row of *one* gained most; *three* and *nine* are relearned soonest.
CLASSES = (1, 3, 9)
STRONGEST = max(AMOUNTS["full"].relearnings, key=lambda each: each.learning_rate * (each.rank == 0))
STEPWISE = replace(
    AMOUNTS["full"], name="step by step", relearning_steps=(1, 2, 3, 4, 5, 7, 10), relearning_within=10,
    relearnings=(STRONGEST,),
)  # fmt: skip
LONG = replace(AMOUNTS["full"], name="long", screening_images=100, inversion_steps=(50, 100, 200, 400, 800, 1600))
ATTACKS = {"relearning": STEPWISE, "embedding_inversion": LONG}
NAMES = {"erased": "erased", "retrained": "never saw it"}
PATH = RESULTS / "beyond_budget.jsonl"


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """A model under one of these attacks."""

    forget_class: int
    who: Literal["erased", "retrained"]
    attack: str

    @property
    def subject(self) -> Subject:
        """The erasure by the shipped default."""
        return Subject(method=DEFAULT_METHOD, optimizers=SIDES[0], forget_class=self.forget_class, budget="full")

    @property
    def key(self) -> str:
        """Identifies the job under today's defaults, recipe and budget."""
        made = self.subject.config_hash if self.who == "erased" else config_hash(asdict(Recipe()))
        return json.dumps([asdict(self), made, config_hash(asdict(ATTACKS[self.attack]))])

    def attacked(self, work: Path) -> Line:
        """Make the model, unless it is there, and attack it."""
        from erase.api.probing import kept_attack
        from pipelines.model import load

        erased = self.who == "erased"
        model = self.subject.run(work).model if erased else load(make_floor(work, self.forget_class))
        budget = budget_against(self.forget_class, ATTACKS[self.attack])
        return kept_attack(self.attack, model, self.forget_class, budget).result.to_dict()


def jobs() -> list[Beyond]:
    """The short attacks first."""
    return [
        Beyond(forget_class=label, who=who, attack=attack) for attack in ATTACKS for label in CLASSES for who in NAMES
    ]


def kept() -> dict[Beyond, Line]:
    """What has been attacked under today's defaults."""
    done = by_key(PATH)
    return {job: done[job.key] for job in jobs() if job.key in done}


def curve_of(job: Beyond, line: Line) -> Curve:
    """The share by each counted step; of a learned row the best of its starts."""
    detail = line["detail"]
    return best_by_step(detail["curves"]) if job.attack == "embedding_inversion" else detail["curve"]


def tables(lines: Mapping[Beyond, Line]) -> str:
    """Share in percent by model and step, a table for each attack."""
    long = {job: curve_of(job, line) for job, line in lines.items() if job.attack == "embedding_inversion"}
    short = {job: curve_of(job, line) for job, line in lines.items() if job.attack == "relearning"}
    texts = []
    if long:
        texts.append(
            markdown_table(["row learned, steps", *counted(LONG.inversion_steps)], shares(long), text_columns=1)
        )
    if short:
        halves = [half(curve, of=drawn) for curve, drawn in zip(short.values(), originals(short), strict=True)]
        rows = [[*row, steps] for row, steps in zip(shares(short), halves, strict=True)]
        header = ["fine-tuned, steps", *counted(STEPWISE.relearning_steps), "until half"]
        texts.append(markdown_table(header, rows, text_columns=1))
    return "\n".join(texts)


def counted(steps: Sequence[int]) -> list[str]:
    """The heads of the columns."""
    return [f"{step:,}" for step in steps]


def shares(curves: Mapping[Beyond, Curve]) -> list[list[str]]:
    """A row for each model."""
    return [
        [f"*{job.forget_class}*, {NAMES[job.who]}", *(percent(share) for _, share in curve)]
        for job, curve in curves.items()
    ]


def originals(jobs: Iterable[Beyond]) -> list[float]:
    """What the original draws under each attack at the full budget."""
    done = by_key(YARDSTICKS)
    keys = {job: Yardstick(who="original", forget_class=job.forget_class, budget="full").key for job in jobs}
    return [done[key]["probes"][job.attack]["value"] for job, key in keys.items()]


def half(curve: Curve, *, of: float) -> str:
    """Steps until half of what the original draws is back."""
    return steps_in_words(steps_to_half(curve, of=of), last=curve[-1][0], digits=1)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "probe_table", help="where the models are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    arguments = parser.parse_args()
    attack_missing(dict.fromkeys(jobs(), PATH), arguments.work, workers=arguments.workers)
    print(tables(kept()))


if __name__ == "__main__":
    main()
