"""Attacks on several erased classes: which one is reported, what holds a gate, what report and card say of them."""

import pytest
import torch

from eval.by_class import add_attack, covers_all, rows_by_class
from eval.compare import tabulate
from eval.gap import gap_to_retrain, part_name
from eval.gates import failed_gates, parse_gates
from eval.probe import ProbeResult
from eval.probe_parts import attack_lines, attacks_view, class_words

NAMES = ["zero", "one", "two", "three"]


def results(label, erased, retrained=None, *, original=0.9):
    """What a probe gave on the models of one class."""
    shares = {"original": original, "erased": erased} | ({} if retrained is None else {"retrained": retrained})
    return {who: result(label, share) for who, share in shares.items()}


def result(label, share):
    """A share with an interval of three points on either side."""
    low, high = (None, None) if share is None else (max(0, share - 0.03), share + 0.03)
    pictures = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    return ProbeResult(value=share, low=low, high=high, n=900, pictures=pictures, detail={"class_label": label})


def record_of(name, *found):
    """A record with one attack on some classes, of which the first is also the first that was erased."""
    by_class = {rows["erased"].detail["class_label"]: rows for rows in found}
    record = {"forget_classes": list(by_class), "class_names": NAMES, "probes": {}, "original": {}, "erased": {}}
    add_attack(record, name, by_class)
    return record


def reported(name, *found):
    """The class that an attack is reported for."""
    return record_of(name, *found)["probes"][name]["erased"]["detail"]["class_label"]


def test_the_class_that_came_back_most_is_reported():
    """By recovery: more of class 2 was drawn, and still more from a model that never saw it."""
    record = record_of("completion", results(1, 0.3, 0.1), results(2, 0.35, 0.3))
    assert record["probes"]["completion"]["erased"]["value"] == 0.3
    assert record["recovery"]["completion"]["value"] == pytest.approx(0.25)
    assert [rows["erased"]["value"] for rows in rows_by_class(record, "completion").values()] == [0.3, 0.35]
    assert reported("completion", results(1, 0.0), results(2, None)) == 1


def test_a_class_of_which_an_attack_says_nothing_hides_none_of_which_it_does():
    """A floor near the original makes any recovery large; without one an original that hardly shows the class."""
    empty, clear = results(1, 0.12, 0.10, original=0.11), results(2, 0.8, 0.1)
    assert reported("completion", empty, clear) == reported("completion", clear, empty) == 2
    assert reported("completion", results(1, 0.45, original=0.45), results(2, 0.4)) == 2
    assert reported("relearning", results(1, 0.96, 0.9), results(2, 0.02, 0.0)) == 2


def test_one_class_is_reported_alone():
    record = record_of("completion", results(3, 0.2))
    assert "by_class" not in record and covers_all(record, "completion") and class_words(record, "completion") == ""
    assert list(rows_by_class(record, "completion")) == ["3"] and not covers_all(record, "relearning")


def failures(bounds, record):
    """What fails of some gates."""
    return failed_gates(parse_gates(bounds), record)


def test_a_gate_has_to_hold_for_every_class():
    record = record_of("completion", results(1, 0.02, 0.0), results(2, 0.8, 0.0))
    assert failures("recovery.completion<=0.9", record) == []
    (failure,) = failures("recovery.completion<=0.5", record)
    assert failure == "recovery.completion<=0.5 fails: recovery.completion of two is 0.8889"
    (failure,) = failures("recovery.completion>=0.5", record)
    assert failure.endswith("recovery.completion of one is 0.02222")


def test_a_class_without_a_value_holds_no_gate():
    """The floor of class 1 is as high as the original: nothing can be said, also where all of class 2 is gone."""
    record = record_of("completion", results(1, 0.96, 0.9), results(2, 0.02, 0.0))
    (failure,) = failures("recovery.completion<=0.5", record)
    assert failure.endswith("recovery.completion of one has no value, which may take a model that never saw the class "
                            "(--retrained)")  # fmt: skip
    record = {**record_of("completion", results(2, 0.02, 0.0)), "forget_classes": [1, 2]}
    assert not covers_all(record, "completion") and len(failures("recovery.completion<=0.5", record)) == 1


def test_the_headline_counts_an_attack_by_all_its_classes():
    """Class 1 is reported for what it recovered, and lies within chance of its floor; class 2 does not."""
    found = results(1, 0.05, 0.02, original=0.12), results(2, 0.3, 0.1)
    record = record_of("completion", *found)
    assert reported("completion", *found) == 1
    assert attacks_view(record, {}, scale=1)["headline"].startswith("0 of 1 attack brought back no more than")
    suppressed = record_of("completion", results(1, 0.1, 0.1), results(2, 0.0, 0.3))
    assert "With 1 of them it was clearly less" in attacks_view(suppressed, {}, scale=1)["headline"]


def test_report_and_terminal_name_the_class_and_the_others():
    record = record_of("label_mixing", results(1, 0.04, 0.0), results(2, 0.5, 0.5), results(3, 0.0, 0.0))
    words = (
        "Shown is “one”, of which most came back; of the others: “three” 0.0 % (0.0 to 3.0 %), retrained 0.0 % (0.0 to "
        "3.0 %) and “two” 50.0 % (47.0 to 53.0 %), retrained 50.0 % (47.0 to 53.0 %)."
    )
    assert attack_lines(record, "label_mixing")[-1] == f"  {words}"
    view = attacks_view(record, {}, scale=1)
    assert view["classes"] == "Are “one”, “two” and “three”" and view["several"]
    assert [card["about"] for card in view["cards"]] == ["one"] and view["cards"][0]["by_class"] == words

    # Of an attack that was made on one of them alone that is said instead.
    del record["by_class"]
    assert class_words(record, "label_mixing") == "Of the erased classes “one” alone was attacked."
    assert not attacks_view(record, {}, scale=1)["several"]


def test_many_classes_are_not_all_listed():
    record = record_of("label_mixing", *(results(label, 0.0) for label in range(9)))
    record["class_names"] = [f"c{number}" for number in range(9)]
    assert class_words(record, "label_mixing").endswith("“c5” 0.0 % (0.0 to 3.0 %) and 3 more.")


def test_every_class_is_a_part_of_the_gap():
    record = record_of("label_mixing", results(1, 0.4, 0.1), results(2, 0.0, 0.2))
    record |= {"retrained": {}, "feature_space": "toy features"}
    gap = gap_to_retrain(record)
    assert gap.value == pytest.approx(0.25)
    names = [part_name(name, "toy features") for name in gap.differences]
    assert names == ["attack: label mixing, one", "attack: label mixing, two"]


def test_a_table_names_the_class_beside_the_share(report):
    """The original's share is that of the same class."""
    record = {**report.record, "forget_classes": [3, 4]}
    found = {3: results(3, 0.1, original=0.95), 4: results(4, 0.4, original=0.8)}
    add_attack(record, "label_mixing", found)
    cells = [row[-1] for row in tabulate({"run": record}).rows]
    assert cells == ["80.0 % (four)", "40.0 % (four)"]
