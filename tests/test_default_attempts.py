"""What else the default could be, as a table: on figures that are known."""

from benchmarks import default_attempts
from benchmarks.default_attempts import ALSO_FULL, ATTEMPTS, HARD, summary, table
from benchmarks.erasures import ORIGINAL

SCORES = {"retain_accuracy": 0.99, "frechet": 0.8}
FIGURES = {"forget_accuracy": 0.012, "rise": -0.02, "steps_ratio": "never", "gap": 0.0364}
AVERAGED = "the same, weights averaged, half-life 15 steps"


def line_of(share):
    return {"probes": {"embedding_inversion": {"erased": {"value": share}}}}


def test_every_attempt_has_a_row_also_one_that_diverged(monkeypatch):
    monkeypatch.setattr(default_attempts, "figures_as_json", lambda line: None if "diverged" in line else FIGURES)
    scores = {attempt: {**SCORES, "frechet": 0.88, "retain_accuracy": 0.978} for attempt in ATTEMPTS}
    scores |= {ORIGINAL: SCORES, AVERAGED: {"diverged": "step 7"}}
    attacks = {(attempt, label, "quick"): line_of(0.5) for attempt in ATTEMPTS for label in HARD}
    attacks |= {(attempt, label, "full"): line_of(0.156) for attempt in ALSO_FULL for label in HARD}
    attacks |= {(AVERAGED, label, "quick"): {"diverged": "step 7"} for label in HARD}

    rows = table(summary(scores, attacks)).splitlines()[2:]
    assert len(rows) == len(ATTEMPTS)
    assert rows[0] == "| shipped | 1.10 | 1.2 | 1.2 / 1.2 | -2 / -2 | never / never | 0.036 / 0.036 | 16 / 16 |"
    averaged = next(row for row in rows if AVERAGED in row)
    assert averaged == f"| {AVERAGED} | diverged | - | diverged / diverged | - / - | - / - | - / - |  |"
