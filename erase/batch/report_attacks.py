"""What attacks brought back, by model and attack."""

from collections.abc import Sequence
from typing import Any

from eval.probe_parts import floor_words, meanings, raw_words, recovery_words
from eval.probe_words import MEANINGS, plain_words
from eval.recovery import recovery, verdict
from eval.words import attacked_name, behind

from .report_parts import Scored


def attacks_view(scored: Sequence[Scored]) -> dict[str, Any]:
    """A row for each model that was attacked, a column for each attack; empty where none was."""
    attacked = [each for each in scored if each.record["probes"]]
    if not attacked:
        return {}
    num_classes = len(attacked[0].record["class_names"])
    names = list(dict.fromkeys(name for each in attacked for name in each.record["probes"]))
    outcomes = [(name, recovery(rows)) for each in attacked for name, rows in each.record["probes"].items()]
    verdicts = {verdict(name, outcome) for name, outcome in outcomes}
    said = meanings(outcome for _, outcome in outcomes)
    found = {name: each.record["probes"][name] for each in attacked for name in each.record["probes"]}
    return {
        "titles": [plain_words(name, num_classes=num_classes).title for name in names],
        "rows": [
            {
                "name": each.record["batch"]["model"],
                "about": each.about,
                "cells": [attack_cell(each, name) for name in names],
            }
            for each in attacked
        ],
        "floor": floor_words(found),
        "meanings": [(word, said[word]) for word in MEANINGS if word in verdicts],
    }


def attack_cell(scored: Scored, name: str) -> dict[str, str]:
    """One attack on one model; empty where it was not made."""
    rows = scored.record["probes"].get(name)
    if rows is None:
        return {}
    outcome = recovery(rows)
    return {
        "recovery": recovery_words(name, outcome),
        "verdict": verdict(name, outcome),
        "raw": behind(raw_words(rows), attacked_name(scored.record, rows)),
    }
