"""A result in a notebook: its pictures cut from those of the run, its scores and attacks, its numbers as tidy rows."""

import re

import numpy as np
import torch
from PIL import Image

from eval.pictures import grid, rows_of, save_png
from eval.result_view import PICTURE_BUDGET, render_result, start_of
from eval.tidy import COLUMNS, tidy_rows


def saved(report, folder, *, scale=2):
    """The pictures of a run as it writes them."""
    paths = {"original": folder / "before.png", "erased": folder / "after.png"}
    for model, path in paths.items():
        images = report.samples[model]
        save_png(grid(images.flatten(0, 1), columns=images.shape[1], scale=scale), path)
    return paths


def test_rows_come_back_as_they_were_put_into_a_grid():
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = rows_of(grid(images, columns=2, scale=3), rows=3)
    assert [row.size for row in rows] == [(26, 12)] * 3
    assert start_of(rows[0]).size == (26, 12) and start_of(grid(images, columns=6, scale=3)).size == (82, 12)
    assert start_of(grid(images.repeat(2, 1, 1, 1), columns=12)).tobytes() == grid(images, columns=6).tobytes()
    assert all(
        row.tobytes() == grid(images[2 * at : 2 * at + 2], columns=2, scale=3).tobytes() for at, row in enumerate(rows)
    )


def test_a_result_shows_pictures_scores_and_attacks_by_itself(attacked, report, tmp_path):
    page = render_result(attacked.record, samples=saved(report, tmp_path), previews=attacked.previews)
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    assert "three erased from toy" in page and "Forget accuracy" in page and "Lower is better." in page
    assert "95 % interval" in page and re.search(r"\d to \d", page)
    assert "Search for a new label" in page and "avoided" in page and "step 20" in page

    # The erased class and its neighbours, each before and after, then the pictures on the way.
    places = 1 + len(attacked.record["neighbours"])
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 2 * places + len(attacked.previews)
    assert page.count("alt=") == page.count("<img ")
    assert not re.search(r"<script|<style|<link|https?://", page)


def test_a_result_without_pictures_is_a_table(report, tmp_path):
    page = render_result(report.record, samples={"original": tmp_path / "none.png"}, previews={})
    assert "<img" not in page and "Retain accuracy" in page


def test_large_pictures_are_reduced_to_their_budget(report, tmp_path):
    """Noise is the worst that a PNG can be given."""
    noise = np.random.default_rng(0).integers(0, 256, (202 * len(report.sampled_classes) - 2, 2000, 3), dtype=np.uint8)
    paths = saved(report, tmp_path)
    for path in paths.values():
        Image.fromarray(noise).save(path)
    assert len(render_result(report.record, samples=paths, previews={})) < PICTURE_BUDGET + 30_000


def numbers(entry):
    """Value, interval and count of an entry or a row."""
    return [entry[name] for name in ("value", "low", "high", "n")]


def test_tidy_rows_hold_every_number_of_the_record(attacked):
    record, rows = attacked.record, tidy_rows(attacked.record)
    assert all(tuple(row) == COLUMNS for row in rows)
    scores = {(row["model"], row["metric"]): row for row in rows if row["kind"] == "score"}
    attacks = {(row["model"], row["metric"]): row for row in rows if row["kind"] == "probe"}
    assert len(scores) + len(attacks) == len(rows)

    models = ("original", "erased", "retrained")
    assert {name: numbers(row) for name, row in scores.items()} == {
        (model, key): numbers(entry) for model in models for key, entry in record[model].items()
    }
    assert {name: numbers(row) for name, row in attacks.items()} == {
        (who, probe): numbers(entry) for probe, subjects in record["probes"].items() for who, entry in subjects.items()
    }

    # What a number means travels with it.
    meaning = {name: (row["better"], row["unit"], row["class_name"]) for name, row in {**scores, **attacks}.items()}
    assert meaning["erased", "forget_accuracy"] == ("lower", "share", "")
    assert meaning["original", "retain_accuracy"] == ("higher", "share", "")
    assert meaning["erased", "frechet"] == ("lower", "distance", "")
    assert meaning["erased", "label_mixing"] == ("lower", "share", "three")
    assert meaning["control", "label_mixing"] == ("neither", "share", "one")


def test_tidy_rows_hold_every_class_of_an_attack_and_its_control_once(attacked):
    """Where several were erased, the record reports the one of which most came back."""
    subjects = attacked.record["probes"]["label_mixing"]
    four = {who: {**entry, "value": 0.25, "detail": {"class_label": 4}} for who, entry in subjects.items()}
    by_class = {"label_mixing": {"3": subjects, "4": four}}
    rows = [row for row in tidy_rows({**attacked.record, "by_class": by_class}) if row["metric"] == "label_mixing"]
    erased = {row["class_name"]: row["value"] for row in rows if row["model"] == "erased"}
    assert erased == {"three": subjects["erased"]["value"], "four": 0.25}
    assert [row["class_name"] for row in rows if row["model"] == "control"] == ["one"]


def test_tidy_rows_tell_of_classes_that_were_erased_before(report):
    entry = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    earlier = {"2": {"original": entry, "erased": {**entry, "value": 0.4}}}
    found = [row for row in tidy_rows({**report.record, "earlier": earlier}) if row["kind"] == "earlier"]
    assert [(row["model"], row["metric"], row["class_name"], row["value"]) for row in found] == [
        ("original", "forget_accuracy", "two", 0.5),
        ("erased", "forget_accuracy", "two", 0.4),
    ]
