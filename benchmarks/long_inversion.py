"""A label row that is learned for four times as long as the attackers live that the default trains against.

    python -m benchmarks.long_inversion

Resumable: a row of each class takes some ten minutes of a core for each model; the models are those of
``benchmarks.probe_table --default`` and are made where they are not below ``--work``.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.attacks import SIDES, Subject, attack_missing, budget_against, make_floor
from benchmarks.erasures import RESULTS
from benchmarks.lines import Line
from benchmarks.probe_summary import percent
from benchmarks.relearning_pace import Curve, best_by_step
from erase.config import config_hash
from erase.configure import DEFAULT_METHOD
from erase.rundir import cache_dir
from eval.probe import AMOUNTS
from pipelines.pretrain.recipe import Recipe
from pipelines.text import markdown_table

CLASSES = (1, 3, 9)  # the learned row of *one* gained most at the end of the full budget; the others for comparison
LONG = replace(
    AMOUNTS["full"], name="long", screening_images=100, inversion_steps=(50, 100, 200, 400, 800, 1600)
)  # as many starts and images
NAMES = {"erased": "erased", "retrained": "never saw it"}
PATH = RESULTS / "long_inversion.jsonl"


@dataclass(frozen=True, kw_only=True)
class LongInversion:
    """A model that a row is learned for."""

    forget_class: int
    who: Literal["erased", "retrained"]

    @property
    def subject(self) -> Subject:
        """The erasure by the shipped default."""
        return Subject(method=DEFAULT_METHOD, optimizers=SIDES[0], forget_class=self.forget_class, budget="full")

    @property
    def key(self) -> str:
        """Identifies the job under today's defaults, recipe and budget."""
        made = self.subject.config_hash if self.who == "erased" else config_hash(asdict(Recipe()))
        return json.dumps([asdict(self), made, config_hash(asdict(LONG))])

    def attacked(self, work: Path) -> Line:
        """Make the model, unless it is there, and learn the row."""
        from erase.api.probing import kept_attack
        from pipelines.model import load

        erased = self.who == "erased"
        model = self.subject.run(work).model if erased else load(make_floor(work, self.forget_class))
        budget = budget_against(self.forget_class, LONG)
        return kept_attack("embedding_inversion", model, self.forget_class, budget).result.to_dict()


def jobs() -> list[LongInversion]:
    """Class by class, the erased model first."""
    return [LongInversion(forget_class=label, who=who) for label in CLASSES for who in NAMES]


def curve_of(line: Line) -> Curve:
    """The best share that any of the starts reached by each counted step."""
    return best_by_step(line["detail"]["curves"])


def table(lines: Mapping[LongInversion, Line]) -> str:
    """Share in percent by model and step."""
    rows = [
        [f"*{job.forget_class}*, {NAMES[job.who]}", *(percent(share) for _, share in curve_of(line))]
        for job, line in lines.items()
    ]
    return markdown_table(["steps of learning", *map(str, LONG.inversion_steps)], rows, text_columns=1)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "probe_table", help="where the models are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    arguments = parser.parse_args()
    done = attack_missing(dict.fromkeys(jobs(), PATH), arguments.work, workers=arguments.workers)
    print(table({job: done[job.key] for job in jobs()}))


if __name__ == "__main__":
    main()
