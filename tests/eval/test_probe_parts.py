"""What the report says of attacks: the sentence that sums them up, floors, verdicts, steps to half."""

import copy

import pytest

from eval.probe import probe_names
from eval.probe_parts import (
    attack_lines,
    attacks_view,
    floor_words,
    gap_view,
    half_words,
    headline,
    strongest,
)
from eval.probe_words import PLAIN, caveats, plain_words
from eval.recovery import NO_VERDICT, recovery


def entry(value, spread=0.02, **detail):
    """A probe's entry."""
    low, high = max(0, value - spread), min(1, value + spread)
    return {"value": value, "low": low, "high": high, "n": 100, "detail": {"class_label": 3, **detail}}


def rows(erased, retrained=None):
    """Entries of one probe."""
    found = {"original": entry(0.97), "erased": entry(erased), "control": entry(0.96)}
    return found | ({} if retrained is None else {"retrained": entry(retrained)})


def summed_up(found, *, untold=()):
    """The sentence about some attacks, those ``untold`` without a verdict."""
    verdicts = {name: NO_VERDICT if name in untold else "removed" for name in found}
    outcomes = {name: recovery(each) for name, each in found.items()}
    return headline({name: [each] for name, each in found.items()}, outcomes, verdicts)


def test_the_headline_counts_attacks_against_the_floor():
    found = {"a": rows(0.36, 0.34), "b": rows(0.9, 0.1), "c": rows(0.0, 0.3), "d": rows(0.1, 0.1)}
    assert summed_up(found) == (
        "3 of 4 attacks brought back no more than a model that never saw the class gives. With 1 of them it was "
        "clearly less: there the class is suppressed rather than absent."
    )
    blunt = {"a": rows(0.9, 0.9), "b": rows(0.9, 0.1)}
    assert summed_up(blunt).endswith("gives. 1 of the 2 attacks tell little, for reasons given with each.")
    assert summed_up({"b": found["b"], "without a floor": rows(0.9)}).startswith("0 of 1 attack brought")
    assert summed_up({"a": rows(0.0), "b": rows(0.1), "c": rows(0.4)}) == (
        "1 of 3 attacks brought the class back in more than 10.0 % of images."
    )
    assert summed_up({"a": rows(0.0), "b": rows(0.1)}) == (
        "None of 2 attacks brought the class back in more than 10.0 % of images."
    )
    told = summed_up({"a": rows(0.05), "b": rows(0.9)}, untold="b")
    assert told == "Of 2 attacks one tells by itself: it brought the class back in 5.0 % of images."
    told = summed_up({"a": rows(0.05), "b": rows(0.9), "c": rows(0.4)}, untold="b")
    assert told == "Of 3 attacks 2 tell by themselves; 1 of those brought the class back in more than 10.0 % of images."
    assert summed_up({"b": rows(0.9)}, untold="b").startswith("None of the attacks made so far tells anything")
    assert summed_up({"a": rows(0.05)}) == "The one attack made so far brought the class back in 5.0 % of images."


def test_attacks_without_a_control_are_shown_without_one(attacked):
    record = copy.deepcopy(dict(attacked.record))
    for found in record["probes"].values():
        del found["control"]
    view = attacks_view(record, {}, scale=1)
    assert view["control"] == "" and attacks_view(attacked.record, {}, scale=1)["control"]
    assert not any("retained" in each["name"] for card in view["cards"] for each in card["subjects"])


def test_where_there_is_no_floor_it_says_so():
    assert floor_words({"a": rows(0.1, 0.1)}).startswith("Recovery is 0 % where")
    assert floor_words({"a": rows(0.1)}).startswith("No model retrained without the class was attacked, so that")
    both = floor_words({"a": rows(0.1, 0.1), "label_mixing": rows(0.1)})
    assert "Recovery is 0 % where" in both and "was attacked by label mixing, so that there is no floor" in both


def test_cards_hold_every_subject_with_its_interval_and_the_verdict(attacked):
    view = attacks_view(attacked.record, attacked.probes, scale=1)
    assert [card["verdict"] for card in view["cards"]] == ["removed", "removed", "weakened", "avoided"]
    assert [word for word, _ in view["meanings"]] == ["avoided", "weakened", "removed"]
    assert view["headline"].startswith("2 of 4 attacks brought back no more than")
    mixing = "90.0 % (88.0 to 92.0 %), retrained 4.0 % (2.0 to 6.0 %)"
    assert view["strongest"] == f"By recovery the strongest is “Mix labels”: {mixing}."
    none = {name: {"value": 0.0 if name == "label_mixing" else -0.1} for name in attacked.record["probes"]}
    assert strongest(attacked.record, none) == ""
    restore, _, relearning, _ = view["cards"]
    names = [row["name"] for row in restore["subjects"]]
    assert names[2:] == ["Retrained without the class (floor)", "Erased model", "Erased model, retained class “one”"]
    assert restore["recovery"] == "\N{MINUS SIGN}2.1 %"
    assert restore["raw"] == ["0.0 % (0.0 to 2.0 %)", "2.0 % (0.0 to 4.0 %)"]
    assert all(row["picture"] for row in restore["subjects"])
    half = "half of the original after about 17 steps"
    assert [row["aside"] for row in relearning["subjects"]] == ["", half, half, half, ""]
    assert view["left"] == len(probe_names()) - 4

    # Numbers stay where the pictures are gone.
    bare = attacks_view({**attacked.record, "forget_classes": [3, 4]}, {}, scale=1)
    assert (view["classes"], bare["classes"]) == ("Is “three”", "Are “three” and “four”")
    assert not view["several"] and not bare["several"]  # each attack was made on one of the two
    assert not any(row["picture"] for card in bare["cards"] for row in card["subjects"])
    assert attacks_view({**attacked.record, "probes": {}}, {}, scale=1) == {}


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ([(5, 0.25), (10, 0.75)], "half of the original after about 8 steps"),
        ([(5, 0.1), (20, 0.4)], "not half in 20 steps"),
        ([], ""),
    ],
)
def test_steps_to_half_in_words(curve, words):
    assert half_words(entry(0.5, curve=curve), of=1.0) == words


def told(subjects, name="label_mixing"):
    return caveats(name, subjects)


def test_an_attack_that_says_little_is_told_to():
    subjects = {"original": entry(1.0), "erased": entry(0.77), "embedding_reset": entry(0.9), "retrained": entry(0.95)}
    assert told(subjects).endswith("gives 95.0 %, so that this attack hardly tells models apart.")
    subjects["erased"] = entry(0.77, curve=[(5, 0.2)])
    assert told(subjects).endswith("models apart; how soon half is back tells more.")
    subjects |= {"retrained": entry(0.1), "embedding_reset": entry(0.15)}
    assert told(subjects).endswith("finds it in 15.0 % of images: that it finds little here proves little.")
    assert told({**subjects, "embedding_reset": entry(0.8)}, "relearning") == ""
    assert told({"original": entry(1.0), "erased": entry(0.1)}) == ""
    assert told({"original": entry(1.0), "erased": entry(0.1)}, "relearning").startswith("This attack teaches")
    hardly = told({"original": entry(0.1), "erased": entry(0.1)})
    assert hardly.startswith("The original itself gives the class in only")
    rare = {"original": entry(0.1), "erased": entry(0.1), "retrained": entry(0.05, spread=0.05)}
    assert told({**rare, "retrained": entry(0.04, spread=0.2)}).endswith(
        "more than the 4.0 % of the model that never saw it."
    )
    assert told({**rare, "original": {**entry(0.1), "value": None}}) == ""


def test_an_attack_in_a_terminal_has_every_model_with_its_interval_and_its_pace():
    subjects = {"original": entry(1.0, curve=[(5, 1.0)]), "erased": entry(0.75, curve=[(5, 0.25), (10, 0.75)])}
    record = {"forget_classes": [3], "probes": {"embedding_inversion": subjects, "relearning": subjects}}
    assert attack_lines(record, "embedding_inversion") == [
        "embedding inversion: avoided, recovery 75.0 %",
        "  original 100.0 % (98.0 to 100.0 %)",
        "  erased 75.0 % (73.0 to 77.0 %), half of the original after about 8 steps",
    ]
    subjects["retrained"] = entry(1.0)
    assert attack_lines(record, "relearning")[0] == "relearning: no verdict"
    subjects["original"] = {**entry(1.0), "value": None}
    assert attack_lines(record, "relearning")[0] == "relearning: not measured"


def test_every_probe_speaks(attacked):
    assert set(PLAIN) <= set(probe_names())
    assert "would be 10 %" in plain_words("unconditional_mass", num_classes=10).does
    assert "would be 0.1 %" in plain_words("unconditional_mass", num_classes=1000).does
    for name in probe_names():
        words = plain_words(name, num_classes=10)
        assert words.title and "{" not in words.does and words.does.endswith((".", "?"))


def test_the_gap_names_its_parts_the_largest_first(attacked):
    view = gap_view(attacked.record)
    assert view["rows"][0] == {
        "name": "attack: label mixing", "erased": "90.0 %", "retrained": "4.0 %",
        "change": "+86.0 points",
    }  # fmt: skip
    parts = len(view["rows"])
    assert view["value"] == f"{100 * (0.86 + 0.3 + 0.02 + 0.01) / parts:.1f} points" and view["original"]
    record = copy.deepcopy(dict(attacked.record))
    for each in record["probes"].values():
        del each["retrained"]
    del record["retrained"]
    assert gap_view(record) == {}


def test_a_probe_of_ones_own_speaks_through_its_file(monkeypatch):
    name = probe_names()[0]
    monkeypatch.delitem(PLAIN, name)
    words = plain_words(name, num_classes=10)
    assert words.title == name.replace("_", " ").capitalize() and words.does.endswith("?")
