"""What comes back: every method under every probe on digits, beside models that never saw the class.

    python -m benchmarks.probe_table             every method, shared and dual, three classes, quick budget; what each
                                                 attack finds, on a kept class of the default's models as well
    python -m benchmarks.probe_table --classes 3   one of the three classes, a table of its own
    python -m benchmarks.probe_table --default   the default on all ten classes, full budget

Resumable: each model is an ordinary run below ``--work``, each attack is kept by weights and budget, and each model's
line is in the results as soon as it is there. A retrained model takes half an hour of a core, once; another erasure
with its probes at the quick budget three to seven minutes.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from benchmarks.attacks import CONTROLS, FLOORS, SIDES, Control, Subject, attack_missing, run_all
from benchmarks.erasures import RESULTS
from erase.configure import DEFAULT_METHOD
from erase.method import method_class, method_names
from erase.rundir import cache_dir

CLASSES = (3, 8, 1)
RETRAIN = "retrain"


def subjects(*, default: bool) -> list[Subject]:
    """What is attacked: the default method and its optimizers on every class first, then class by class."""
    if default:
        classes = sorted(range(10), key=lambda label: (label not in FLOORS, label))
        return [
            Subject(method=DEFAULT_METHOD, forget_class=label, optimizers="dual", budget="full") for label in classes
        ]
    methods = (DEFAULT_METHOD, *sorted({*method_names()} - {RETRAIN, DEFAULT_METHOD}))
    found = [
        Subject(method=method, forget_class=label, optimizers=side, budget="quick")
        for label in CLASSES
        for method in methods
        for side in (SIDES if method_class(method).trains else ("",))
    ]
    return sorted(found, key=lambda subject: not subject.is_default)


def controls(wanted: Iterable[Subject]) -> list[Control]:
    """The default's models among them, to be attacked for a class that they keep."""
    return [Control(subject=subject) for subject in wanted if subject.is_default]


def main() -> None:
    """Run what is missing and print the tables."""
    from benchmarks import default_summary, probe_summary

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--default", action="store_true", help="the default on all ten classes, full budget")
    parser.add_argument("--work", type=Path, default=cache_dir() / "probe_table", help="where the models are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each [default: 2]")
    parser.add_argument("--classes", nargs="+", type=int, default=None, help="only these of the classes [default: all]")
    arguments = parser.parse_args()
    name = "default_probes" if arguments.default else "probe_table"
    wanted = subjects(default=arguments.default)
    if arguments.classes is not None:
        wanted = [subject for subject in wanted if subject.forget_class in arguments.classes]
    if not wanted:
        parser.error(f"--classes {' '.join(map(str, arguments.classes))}: none of them is in this table")
    lines = run_all(wanted, RESULTS / f"{name}.jsonl", arguments.work, workers=arguments.workers)
    name = "-".join([name, *map(str, arguments.classes or ())])
    if arguments.default:
        by_class = {subject.forget_class: line for subject, line in lines.items()}
        print(default_summary.write_summary(name, dict(sorted(by_class.items()))))
    else:
        print(probe_summary.write_summary(name, lines))
        kept = controls(wanted)
        done = attack_missing(dict.fromkeys(kept, CONTROLS), arguments.work, workers=arguments.workers)
        print(probe_summary.strength(lines, {each.subject.forget_class: done[each.key] for each in kept}))


if __name__ == "__main__":
    main()
