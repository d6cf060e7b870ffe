"""The report in a real Chromium: wide and narrow, light and dark, without a script, by keyboard, off the network."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from eval.report import write_report

spec = importlib.util.spec_from_file_location("browser", Path(__file__).parent / "browser.py")
browsing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(browsing)
pytestmark = pytest.mark.skipif(browsing.CHROMIUM is None, reason="no Chromium: apt-get install chromium")

SHOWN = "getComputedStyle(document.querySelector('.flip .under')).clipPath"
MIDDLE = """
(({x, y, width, height}) => [x + width / 2, y + height / 2])(document.querySelector(".flip").getBoundingClientRect())
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    tab = browsing.Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def page(attacked, tmp_path):
    record = {**attacked.record, "class_names": [f"class {label} with a rather long name" for label in range(5)]}
    write_report(tmp_path / "report.html", replace(attacked, record=record))
    return tmp_path / "report.html"


def test_it_fits_complains_of_nothing_and_can_be_read_by_everyone(browser, page):
    for width in (1280, 800, 390):
        for dark in (False, True):
            assert browser.open(page, width=width, dark=dark) == []
            browser.value("document.querySelectorAll('details').forEach((each) => (each.open = true))")
            assert browser.value(browsing.SIDEWAYS) <= 0
            assert browser.value(browsing.CONTRAST) == []
            assert browser.value(browsing.OBSTACLES) == []
    assert browser.value("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")


def test_the_checks_find_what_they_look_for(browser, tmp_path):
    path = tmp_path / "bad.html"
    body = '<h3 style="color: #999; width: 500px">x</h3><img src="http://127.0.0.1:9/a.png"><input><a href="#b">y</a>'
    body += "<table><th>z"
    path.write_text(f"<body>{body}<script>undefined_name</script>")
    complaints = "\n".join(browser.open(path, width=390))
    assert "requested http://127.0.0.1:9/a.png" in complaints and "undefined_name" in complaints
    assert browser.value(browsing.SIDEWAYS) > 0 and browser.value(browsing.CONTRAST) == ["2.85  x"]
    obstacles = "\n".join(browser.value(browsing.OBSTACLES))
    for what in (
        "without alt",
        "without a label",
        "nowhere",
        "not one h1",
        "skips a level",
        "no language",
        "without scope",
    ):
        assert what in obstacles


def test_before_and_after_flip_by_pointer_by_keyboard_and_without_a_script(browser, page):
    browser.open(page, width=1280)
    assert "inset" in browser.value(SHOWN)
    browser.value("document.querySelector('.slider input').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="End", code="End", windowsVirtualKeyCode=35)
    assert browser.value("document.querySelector('.flip').style.getPropertyValue('--split')") == "100%"

    browser.open(page, width=1280)
    browser.value("document.querySelector('.flip').scrollIntoView()")
    x, y = browser.value(MIDDLE)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.value(SHOWN) == "none"
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)

    assert browser.open(page, width=1280, script=False) == []
    shown = "[...document.querySelectorAll('.slider, .peek')].map((each) => getComputedStyle(each).display)"
    assert browser.value(shown) == ["none", "block"] and "inset" in browser.value(SHOWN)
    browser.value("document.querySelector('.peek input').click()")
    assert browser.value(SHOWN) == "none"


def test_it_prints_without_controls_and_with_the_folds_open(browser, page):
    browser.open(page, width=1280)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.value("getComputedStyle(document.querySelector('.slider')).display") == "none"
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("[...document.querySelectorAll('details')].every((each) => each.open)")
    assert browser.call("Page.printToPDF", printBackground=True)["data"]
    browser.call("Emulation.setEmulatedMedia", media="")
