"""What each attack finds on the models that stand beside the erased ones, as a table."""

from benchmarks.attacks import Subject
from benchmarks.probe_summary import ATTACKS, SHARES, strength

FOUND = {"original": 1.0, "embedding_reset": 0.5, "retrained": 0.1, "erased": 0.2}


def line_of(**changed):
    probes = {name: {who: {"value": share} for who, share in {**FOUND, **changed}.items()} for name in ATTACKS}
    return {"probes": {name: rows for name, rows in probes.items() if name not in SHARES}}


def model(label, optimizers="dual"):
    return Subject(method="retain_posterior", forget_class=label, optimizers=optimizers, budget="quick")


def test_means_over_the_classes_of_the_default_with_its_kept_class():
    """Another method's line counts for nothing, nor does a class whose erasure diverged."""
    lines = {model(1): line_of(), model(3): line_of(erased=0.4), model(8): {"diverged": "step 7"}}
    lines[model(1, "shared")] = line_of(original=0.0)
    kept = {label: {"probes": {name: {"value": share} for name in ATTACKS}} for label, share in ((1, 0.9), (3, 1.0))}
    header, _, *rows = strength(lines, kept).splitlines()
    assert header.endswith("| original | hidden by a row reset | never saw it | erased | kept class, after erasing |")
    assert len(rows) == 9 and all(row.endswith("| 100.0 | 50.0 | 10.0 | 30.0 | 95.0 |") for row in rows)
