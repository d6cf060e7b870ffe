"""The panel of neighbours: what may be asked, and where it shows."""

import pytest

from erase.api import plan, python_call, request
from erase.api.watching import choose_neighbours, parse_neighbours
from pipelines.errors import UsageError


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (None, None), ("8", 8), (" 3 ", 3), ("-1", -1), ("#8", ["#8"]), ("205,206", ["205", "206"]),
        ("n02099712, labrador retriever", ["n02099712", "labrador retriever"]),
    ],
)  # fmt: skip
def test_a_number_or_classes_are_read(text, asked):
    assert parse_neighbours(text) == asked
    with pytest.raises(UsageError, match=r"--neighbours ' , ' is neither a number nor classes"):
        parse_neighbours(" , ")


def test_named_classes_are_resolved_once(judged_model, short_protocol):
    def choose(*asked):
        return choose_neighbours(judged_model, (3,), asked, protocol=short_protocol)

    assert choose("five", 9, "FIVE", "#0") == (5, 9, 0)
    with pytest.raises(UsageError, match=r"--neighbours five,three: three \(3\) is erased, not retained"):
        choose("five", "three")
    with pytest.raises(UsageError, match="no class is called 'walrus'"):
        choose("walrus")


@pytest.mark.parametrize("count", [0, -1, 10])
def test_a_count_without_meaning_is_refused(judged_model, short_protocol, count):
    with pytest.raises(UsageError, match=rf"--neighbours {count} must lie in 1 to 9"):
        choose_neighbours(judged_model, (3,), count, protocol=short_protocol)


def test_without_scores_or_relations_there_is_no_panel(judged_model, short_protocol, monkeypatch):
    with pytest.raises(UsageError, match=r"--neighbours 5,nine has no effect with --protocol none"):
        choose_neighbours(judged_model, (3,), [5, "nine"], protocol=None)
    assert choose_neighbours(judged_model, (3,), None, protocol=None) == ()
    monkeypatch.setattr("erase.api.watching.stored_label_rows", lambda model: None)
    with pytest.raises(UsageError, match="no retained class shares a word with the erased one, and no label table"):
        choose_neighbours(judged_model, (3,), 4, protocol=short_protocol)


def test_the_digits_that_look_like_three_are_its_neighbours(tmp_path):
    """By label rows alone, which the request reads without the model, and which the plan shows."""
    asked = request("digits", ["three"], neighbours=3, output_dir=tmp_path / "run")
    assert asked.judges.neighbours == (9, 5, 7)
    counted = plan.count(asked.config, asked.protocol, asked.device, neighbours=asked.judges.neighbours)
    assert counted["neighbours"][0] == {"index": 9, "wnid": None, "name": "nine"}
    assert "neighbours 9 nine, 5 five, 7 seven" in plan.text(counted)
    line = python_call("digits", ["three"], asked, preset="default", given={})
    assert "neighbours=[9, 5, 7]" in line
    plain = request("digits", ["three"], output_dir=tmp_path / "run")
    assert plain.config.hash == asked.config.hash  # what is watched changes no weight
    assert "neighbours" not in plain.judges.to_dict()
