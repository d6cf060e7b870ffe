"""The scores and attacks of a model card, from records whose values are known."""

from dataclasses import replace

import pytest

from eval.card_sections import card_sections
from eval.evaluate import evaluate
from eval.words import earlier_sentence, returned


@pytest.fixture
def record(toy, original, erased):
    """Class 3 became class 4; class 1 was erased before, and the original draws it all the same."""
    protocol = replace(toy.protocol, num_forget_images=40, num_retain_images=80, num_inference_steps=8)
    return evaluate(
        {"original": original, "erased": erased}, forget_classes=[3], protocol=protocol, scorer=toy.scorer,
        reference=toy.reference, earlier_classes=[1], neighbours=[4, 0],
        metrics=["forget_accuracy", "retain_accuracy", "frechet", "nearest", "erased_appearance"],
    )  # fmt: skip


def entry(hits, n=250):
    """A probe's entry."""
    return {
        "value": hits / n,
        "low": max(0.0, hits / n - 0.01),
        "high": min(1.0, hits / n + 0.01),
        "n": n,
        "detail": {},
    }


def test_a_class_that_was_erased_before_counts_in_no_score(record):
    for model in ("original", "erased"):
        accuracy = record[model]["retain_accuracy"]
        assert set(accuracy["detail"]["per_class"]) == {"0", "2", "4"} and accuracy["n"] == 80
        assert record["earlier"]["1"][model]["value"] == 1 and record["earlier"]["1"][model]["n"] == 40
    assert record["neighbours"] == [4, 0] and record["erased"]["neighbour_accuracy"]["value"] == 1
    assert record["erased"]["erased_top_share"]["detail"]["per_class"]["3"]["nearest"][0] == 4
    assert 1 not in record["erased"]["erased_top_share"]["detail"]["per_class"]["3"]["nearest"]


def test_scores_stand_before_and_after_with_their_intervals(record):
    text = "\n".join(card_sections(record))
    assert "| Forget accuracy | lower | 100.0 % (91.2 to 100.0 %) | 0.0 % (0.0 to 8.8 %) |" in text  # Wilson at 40
    assert "| Retain accuracy | higher | 100.0 % (95.4 to 100.0 %) | 100.0 % (95.4 to 100.0 %) |" in text  # at 80
    assert "| Frechet distance (toy features) | lower |" in text
    assert "| Forget accuracy of one, erased before: did not come back | lower | 100.0 %" in text
    assert "Neighbours: four and zero." in text and "Not measured: nearest (needs" in text
    assert "## Attacks" not in text and "`erase probe` runs the others" in text
    expected = "Forget accuracy of one, erased before, 100.0 % (was 100.0 %), lower is better, did not come back"
    assert earlier_sentence("1", record) == expected


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(0, 200, "came back in part"), (200, 0, "gone further"), (2, 3, "did not come back"), (0, 0, "did not come back")],
)
def test_what_became_of_a_class_that_was_erased_before(before, after, words):
    assert returned({"original": entry(before), "erased": entry(after)}) == words


def test_attacks_stand_beside_their_controls(record):
    subjects = {"original": entry(250), "embedding_reset": entry(240), "erased": entry(10), "control": entry(245)}
    record["probes"] = {"embedding_restore": subjects, "label_mixing": {**subjects, "erased": entry(150)}}
    values = {name: rows["erased"]["value"] for name, rows in record["probes"].items()}
    record["recovery"] = {name: {"value": value, "floor": 0.0} for name, value in values.items()}
    record["attacks"] = {"label_mixing": {"budget": {"name": "quick"}}}
    text = "\n".join(card_sections(record))
    restored = (
        "| Forget accuracy, original label row put back | lower | 100.0 % (99.0 to 100.0 %) | 4.0 % (3.0 to 5.0 %) |"
    )
    assert restored in text
    assert "| attack | verdict | original | embedding reset | erased | control |" in text
    row = next(line for line in text.splitlines() if line.startswith("| Mix label rows"))
    assert " | avoided | 100.0 % (99.0 to 100.0 %) | 96.0 % (95.0 to 97.0 %) | 60.0 % (59.0 to 61.0 %) |" in row
    assert "Budget of the attacks: quick." in text


def test_of_several_classes_the_one_that_came_back_most_stands_in_the_card(record):
    attacked = {"original": entry(250), "erased": {**entry(10), "detail": {"class_label": 4}}}
    record |= {"forget_classes": [3, 4], "probes": {"embedding_restore": attacked, "label_mixing": attacked}}
    record["by_class"] = {"label_mixing": {"3": attacked, "4": attacked}}
    text = "\n".join(card_sections(record))
    assert "| Forget accuracy, original label row put back (four) | lower |" in text
    assert " (four) | removed | 100.0 %" in text and "Each erased class was attacked by itself" in text
    assert " (four alone) | removed | 100.0 %" in "\n".join(card_sections({**record, "by_class": {}}))
