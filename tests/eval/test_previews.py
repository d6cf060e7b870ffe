"""Previews in the report: evenly chosen, within their budget, from the original to the result."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from eval.pictures import grid, reduced, save_png
from eval.report import render_report
from eval.report_parts import PREVIEW_BUDGET, preview_rows, preview_view


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A preview that no compression makes smaller."""
    images = torch.randint(0, 256, (16, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    save_png(grid(images, columns=8), path)
    return path


def test_previews_are_evenly_chosen_and_within_their_budget(noise):
    previews = dict.fromkeys(range(0, 600, 10), noise)
    rows = preview_rows(previews)
    chosen = [row["step"] for row in rows]
    assert len(chosen) == 12 and (chosen[0], chosen[-1]) == (0, 590)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert max(gaps) - min(gaps) <= 10
    assert PREVIEW_BUDGET / 2 < sum(len(row["picture"]["uri"]) for row in rows) <= PREVIEW_BUDGET
    assert [row["step"] for row in preview_rows(dict.fromkeys(range(10, 210, 10), noise), most=6)] == [
        10, 50, 90, 120, 160, 200]  # fmt: skip
    assert preview_rows({}) == [] and preview_view({}, ()) == {}
    assert [row["step"] for row in preview_rows({5: noise})] == [5]


def test_a_picture_that_fits_is_left_as_it_is():
    flat = grid(torch.zeros(8, 3, 256, 256, dtype=torch.uint8), columns=8)
    assert reduced(flat, budget=75_000) is flat


def test_the_first_is_called_the_original_and_the_last_the_result(noise):
    history = [{"step": 1}, {"step": 12}]
    names = [row["name"] for row in preview_view(dict.fromkeys((0, 5, 10, 12), noise), history)["rows"]]
    assert names == ["step 0, the original", "step 5", "step 10", "step 12, the result"]
    assert [row["name"] for row in preview_view({5: noise}, history)["rows"]] == ["step 5"]  # of an older run


def test_the_page_says_how_many_are_shown_and_has_a_control_for_several(report, noise):
    def page(steps):
        return render_report(replace(report, previews=dict.fromkeys(steps, noise), history=()))

    many, few, one = page(range(60)), page(range(2)), page([5])
    assert "12 of 60 shown." in many and 'counted">' not in few + one and "drew on the way" in one
    assert len(many.encode()) < 5_000_000 and "Denoising loss" not in many
    figures = [re.findall(r"<figcaption>Step \d+", each) for each in (many, few, one)]
    assert [len(each) for each in figures] == [12, 2, 1]
    assert ['<div class="stepper">' in each for each in (many, few, one)] == [True, True, False]
