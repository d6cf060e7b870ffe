"""A batch's report in a real Chromium: every width, light and dark, sorted by keyboard, whole without a script."""

import copy
import importlib.util
from pathlib import Path

import pytest

from erase.batch.gather import whole_record
from erase.batch.report import render_batch_report
from erase.batch.report_parts import Scored
from erase.batch.seed_table import tables_of
from erase.batch.worker import Board

spec = importlib.util.spec_from_file_location("browser", Path(__file__).parents[2] / "eval" / "browser.py")
browsing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(browsing)
pytestmark = pytest.mark.skipif(browsing.CHROMIUM is None, reason="no Chromium: apt-get install chromium")

METHODS = {"salun": 0.25, "gradient_ascent": 0.0, "a_method_with_a_rather_long_name": 0.5}  # and forget accuracies
ORDER = "[...document.querySelectorAll('.methods th')].map((each) => each.textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    tab = browsing.Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    """Three methods on two classes of long names, one method harmful, attacked, with a unit that failed."""
    board = Board(finished)
    board.look()
    attack = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 9, "detail": {"class_label": 3}}
    scored = []
    for unit in finished.of_kind("record"):
        for place, (method, value) in enumerate(METHODS.items()):
            record = copy.deepcopy(whole_record(unit, finished))
            record["class_names"] = [f"class {label} with a long name" for label in range(10)]
            record["batch"] |= {"method": method, "model": f"{method}-{record['batch']['seed']}"}
            record["erased"]["forget_accuracy"]["value"] = value
            record["original"]["retain_accuracy"]["value"] = 0.97
            record["erased"]["retain_accuracy"]["value"] = 0.2 if method == "gradient_ascent" else 0.96
            record["probes"] = {"embedding_restore": {"original": attack, "erased": attack}} if place else {}
            scored.append(Scored(unit=unit, record=record))
    others = copy.deepcopy(scored)
    for each in others:
        each.record["forget_classes"] = [5]
    scored += others
    board.done.remove(scored[0].unit.name)
    tables = tables_of([each.record for each in scored], keys=("forget_accuracy", "retain_accuracy", "frechet"))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_batch_report(board, scored, tables))
    return path


def press(browser, key, code):
    """Press a key."""
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text="\r")


def test_it_fits_complains_of_nothing_and_can_be_read_by_everyone(browser, page):
    for width in (1280, 390):
        for dark in (False, True):
            assert browser.open(page, width=width, dark=dark) == []
            browser.value("document.querySelectorAll('details').forEach((each) => (each.open = true))")
            for check in (browsing.CONTRAST, browsing.OBSTACLES):
                assert browser.value(check) == []
            assert browser.value(browsing.SIDEWAYS) <= 0
            assert browser.value("document.querySelectorAll('.problems, .scatter, .verdict, .methods').length") >= 4
    assert browser.value("[...document.querySelectorAll('.wide')].some((each) => each.scrollWidth > each.clientWidth)")
    assert browser.value("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")


def test_the_table_is_sorted_by_keyboard_under_its_yardsticks(browser, page):
    browser.open(page, width=1280)
    given, lowest_first = list(METHODS), sorted(METHODS, key=METHODS.get)
    assert browser.value(ORDER) == given
    button = "document.querySelectorAll('.sorted thead tr:last-child th')[1].querySelector('button')"
    browser.value(f"{button}.focus()")
    for direction, order in (("ascending", lowest_first), ("descending", lowest_first[::-1])):
        press(browser, "Enter", 13)
        assert browser.value(ORDER) == order
        assert browser.value(f"{button}.parentElement.ariaSort") == direction
    assert browser.value("document.querySelector('.sorted tbody th').textContent") == "original"
    browser.value("document.querySelector('.sorted thead tr:last-child button').click()")
    assert browser.value(ORDER) == sorted(METHODS)
    assert browser.value("document.querySelectorAll('[aria-sort]').length") == 1


def test_without_a_script_and_on_paper_everything_is_there(browser, page):
    assert browser.open(page, width=1280, script=False) == []
    assert browser.value(ORDER) == list(METHODS)
    assert browser.value("document.querySelectorAll('button').length") == 0
    browser.open(page, width=1280)
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("[...document.querySelectorAll('details')].every((each) => each.open)")
    assert browser.call("Page.printToPDF", printBackground=True)["data"]
    browser.call("Emulation.setEmulatedMedia", media="")
