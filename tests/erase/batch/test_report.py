"""The report of a batch: everything that was scored, what is missing on top, links that hold, and nothing from afar."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from erase.batch import executors, pictured, units
from erase.batch.gather import gather
from erase.batch.pictured import drawn_of
from erase.batch.report import problems
from erase.batch.report_charts import bar_row, pool
from erase.batch.report_parts import Scored, best_stats, cell_view, table_view
from erase.batch.seed_table import DAMAGED, Cell, SeedTable
from erase.batch.shard_file import read_shard
from erase.batch.worker import Board
from erase.cli import main
from eval.blocks import blocks_of
from pipelines.errors import InterruptedRun
from pipelines.generate import generate_all

LIMIT = 5_000_000  # bytes of a page


@pytest.fixture
def board(finished):
    """The board of a batch that is done."""
    found = Board(finished)
    found.look()
    return found


@pytest.fixture
def table():
    """One class: the lowest forget accuracy is of a method that did damage."""

    def cell(*values, **marks):
        return Cell(values=values, scale=100, digits=1, **marks)

    return SeedTable(
        caption="tiny", classes=("three",), keys=("forget_accuracy", "retain_accuracy"), titles=("FA", "RA"),
        rows=(("original", (cell(0.98), cell(0.97))),
              ("noise", (cell(0.0, 0.0, is_damaged=True), cell(0.2, 0.3, is_damaged=True))),
              ("salun", (cell(0.1, is_best=True), cell(0.96, is_best=True)))),
        is_judged=True,
    )  # fmt: skip


def page_of(plan):
    """The report."""
    return plan.folder.report_path.read_text()


def test_it_holds_the_table_and_needs_nothing_from_elsewhere(board):
    (table,) = gather(board)
    page = page_of(board.plan)
    assert len(page.encode()) < LIMIT and "What is missing" not in page
    assert all(cell.text in page for _, cells in table.rows for cell in cells)
    assert "2 models scored under the protocol small: 1 method, 1 class, 2 seeds." in page
    assert "not shown to lose more than 2 points" in page and f"erase batch {board.plan.jobs.path}" in page
    addresses = re.findall(r'(?:src|href|xmlns|url)="?\(?([^")]+)', page)
    assert not [each for each in addresses if each.startswith(("http", "/", "file"))]


def test_every_link_leads_to_a_file(board):
    run = board.plan.subjects[0].source
    (Path(run) / "report.html").write_text("a report")
    gather(board)
    links = {unquote(each) for each in re.findall(r'href="([^"#]+)"', page_of(board.plan))}
    assert f"runs/{Path(run).name}/report.html" in links and len(links) == 3  # two records
    assert all((board.plan.folder.path / each).is_file() for each in links)
    (Path(run) / "report.html").unlink()


def test_pictures_are_the_images_that_were_scored(finished):
    """Four of the erased class and two of a retained one, original and erased on the same noise."""
    unit = finished.of_kind("record")[0]
    scored = Scored(unit=unit, record={})
    draw = unit.shards[0].draw
    wanted = draw.pictured()
    assert [len(places) for places in wanted.values()] == [4, 2] and next(iter(wanted)) == 3
    settings, requests = unit.asked.protocol.sampler_settings(), draw.requests()
    for side, model in unit.asked.load().items():
        drawn = drawn_of(scored, side, finished.folder)
        block = blocks_of(requests, draw.block)[0]  # of the erased class alone
        again = generate_all(model, block, settings, batch_size=draw.block)
        assert torch.equal(drawn[3][: len(block)], again)


def test_a_batch_without_images_says_nothing_of_them(board, monkeypatch):
    gather(board)
    assert page_of(board.plan).count("<img") == 2 * (1 + 1) and "What they draw" in page_of(board.plan)

    def bare(path):
        shard = read_shard(path)
        facts = {key: value for key, value in shard.facts.items() if key != "places"}  # of an older version
        return type(shard)(blocks=shard.blocks, facts=facts, images=None)

    monkeypatch.setattr(pictured, "read_shard", bare)
    gather(board)
    assert "<img" not in page_of(board.plan) and "What they draw" not in page_of(board.plan)


def test_what_failed_and_what_is_left_stand_on_top(planned, worked, monkeypatch):
    plan = planned("reported", seeds=(0, 1))
    victim = plan.of_kind("run")[1]
    carry_out = units.RunUnit.carry_out

    def fail(self, folder, loaded):
        if self.name == victim.name:
            raise RuntimeError("the disk is <full>")
        carry_out(self, folder, loaded)

    monkeypatch.setattr(units.RunUnit, "carry_out", fail)
    board = worked(plan)
    gather(board)
    found = problems(board)
    assert found["sentence"] == "1 of 2 models are scored. 6 units of work are not done (1 failed)."
    page = page_of(plan)
    head = page[: page.index("<section")]
    assert found["sentence"] in head and victim.title in head
    assert "RuntimeError: the disk is &lt;full&gt;" in head and "<full>" not in page
    log = re.search(r'href="(work/logs/[^"]+)"', head)[1]
    assert (plan.folder.path / log).is_file()


def test_a_batch_that_is_stopped_has_a_report_too(finished, planned, monkeypatch, capsys):
    def stop(*given, **named):
        raise InterruptedRun("stopped")

    planned()
    finished.folder.report_path.unlink(missing_ok=True)
    monkeypatch.setattr(executors, "run_batch", stop)
    with pytest.raises(SystemExit) as exited:
        main(["batch", str(finished.jobs.path)])
    assert exited.value.code == 75 and finished.folder.report_path.exists()


def test_who_does_damage_does_not_head_the_page(table):
    (stat,) = best_stats(table)
    assert stat["now"] == "10.0 %" and stat["notes"] == [
        "by salun", "was 98.0 %, lower is better", "retain accuracy 96.0 %, was 97.0 %"
    ]  # fmt: skip
    view = table_view(table)
    assert [row["name"] for row in view["yardsticks"]] == ["original"]
    noise, salun = view["methods"]
    assert [cell["mark"] for cell in noise["cells"]] == [DAMAGED, ""] and salun["cells"][0]["seeds"] == "1 of 2 seeds"
    assert noise["cells"][0]["sort"] == "0.0"


def test_what_forgets_less_than_half_is_not_celebrated(table):
    name, (cell, *others) = next(row for row in table.rows if row[0] == "salun")
    barely = replace(cell, values=(0.6, 0.7))
    rows = tuple((row, (barely, *others) if row == name else cells) for row, cells in table.rows)
    (stat,) = best_stats(replace(table, rows=rows))
    assert stat["now"] == "none"
    assert stat["notes"][0] == f"no method forgets half of the class; salun comes nearest with {barely.text} %"


def test_a_cell_without_a_value_sorts_last():
    assert cell_view(Cell(values=(), scale=1, digits=1), marked=True, most=2)["sort"] == ""


def test_a_bar_is_the_mean_of_all_classes_with_its_spread(table):
    noise = table.rows[1][1]
    cell = pool([noise[1], noise[0]])
    row = bar_row("noise", cell, full=0.5, was=0.97)
    deviation = torch.tensor([0.2, 0.3, 0.0, 0.0], dtype=torch.float64).std().item()
    assert row["value"] == pytest.approx(0.25) and row["dots"] == pytest.approx([0.4, 0.6, 0.0, 0.0])
    assert row["high"] == pytest.approx((0.125 + deviation) / 0.5) and row["low"] == 0.0
    assert row["was"] == 1.0 and row["text"] == "12.5 ± 15.0 %"
