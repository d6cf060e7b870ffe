"""The chain of erasures, and the mark of an erased class in files that other tools read."""

import json

import pytest
from diffusers import DiTPipeline

from pipelines.model import DiT, load, save
from pipelines.model_source import load_classes
from pipelines.provenance import base_of, earlier_classes, erased_classes, erasures, marked, unmarked

BASE = {"source": "base", "data": "digits"}
FIRST = {"erased": {"forget_classes": [3, 8]}, "original": BASE}
SECOND = {"erased": {"forget_classes": [4]}, "original": {"source": "runs/a", **FIRST}}


def test_the_chain_is_read_from_the_base_on():
    assert erasures(BASE) == [] and erased_classes(BASE) == ()
    assert [each["erased"]["forget_classes"] for each in erasures(SECOND)] == [[3, 8], [4]]
    assert base_of(SECOND) == BASE and erased_classes(SECOND) == (3, 4, 8)
    assert earlier_classes(FIRST, [4]) == (3, 8)
    assert earlier_classes(FIRST, [3]) == (8,)  # a class may be erased again


@pytest.mark.parametrize(
    "label", ["three", "tench, Tinca tinca", "a ,b", "St. Bernard (dog)", "gone (erased)", "a,,b", " x "]
)
def test_marks_come_off_exactly(label):
    labels = [label, "other (erased)", label]
    shown = marked(labels, [0])
    assert shown[1:] == labels[1:] and shown[0] != label
    assert all(name.endswith(" (erased)") for name in shown[0].split(","))
    assert unmarked(shown, [0]) == labels


def test_a_saved_model_marks_its_erased_classes_and_is_loaded_without_marks(fresh: DiT, tmp_path):
    fresh.provenance = SECOND
    folder = save(fresh, tmp_path / "model")
    labels = json.loads((folder / "model_index.json").read_text())["id2label"]
    assert [labels[key] for key in ("2", "3", "4", "8")] == [
        "two", "three (erased)", "four (erased)", "eight (erased)",
    ]  # fmt: skip
    loaded = load(folder)
    assert loaded.classes == load_classes(folder) == fresh.classes and loaded.id2label == fresh.id2label
    assert loaded.classes.resolve("three") == loaded.classes.resolve("3") == 3

    # diffusers shows the mark, from the folder and in memory; a second round changes nothing.
    assert DiTPipeline.from_pretrained(folder).labels["three (erased)"] == 3
    assert loaded.to_diffusers().labels["four (erased)"] == 4
    again = save(loaded, tmp_path / "again")
    assert (again / "model_index.json").read_text() == (folder / "model_index.json").read_text()
    assert load(again).provenance["erased"] == SECOND["erased"]
