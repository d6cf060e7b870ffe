"""What else the default could be, as a table: on figures that are known."""

from benchmarks import default_attempts
from benchmarks.default_attempts import ALSO_FULL, AMONG_OTHERS, ATTEMPTS, HARD, summary, tables
from benchmarks.erasures import ORIGINAL

SCORES = {"retain_accuracy": 0.99, "frechet": 0.8}
RATIOS = {AMONG_OTHERS: 0.187}
FIGURES = {"forget_accuracy": 0.012, "rise": -0.02, "steps_ratio": "never", "ratio_by_attack": RATIOS, "gap": 0.0364}
*_, LAST = ALSO_FULL
AVERAGED = "the same, weights averaged, half-life 15 steps"


def line_of(share):
    return {"probes": {"embedding_inversion": {"erased": {"value": share}}}}


def test_every_attempt_has_a_row_also_one_that_diverged(monkeypatch):
    monkeypatch.setattr(default_attempts, "figures_as_json", lambda line: None if "diverged" in line else FIGURES)
    scores = {attempt: {**SCORES, "frechet": 0.88, "retain_accuracy": 0.978} for attempt in ATTEMPTS}
    scores |= {ORIGINAL: SCORES, AVERAGED: {"diverged": "step 7"}}
    attacks = {(attempt, label, "quick"): line_of(0.5) for attempt in ATTEMPTS for label in HARD}
    attacks |= {(attempt, label, "full"): line_of(0.156) for attempt, labels in ALSO_FULL.items() for label in labels}
    attacks |= {(AVERAGED, label, "quick"): {"diverged": "step 7"} for label in HARD}
    attacks[LAST, 8, "full"] = {"diverged": "step 9"}

    quick, full = (part.splitlines()[2:] for part in tables(summary(scores, attacks)).split("\n\n"))
    assert len(quick) == len(ATTEMPTS) and len(full) == len(ALSO_FULL)
    assert quick[0] == "| shipped | 1.10 | 1.2 | 1.2 / 1.2 | -2 / -2 | never / never | 0.036 / 0.036 |"
    averaged = next(row for row in quick if AVERAGED in row)
    assert averaged == f"| {AVERAGED} | diverged | - | diverged / diverged | - / - | - / - | - / - |"
    assert full[0].endswith("| 16 / 16 / 16 | never / never / never | 0.19 / 0.19 / 0.19 |")
    assert full[-1].startswith(f"| {LAST} | 1.2 / - / diverged | -2 / - / - | 16 / - / - |")
