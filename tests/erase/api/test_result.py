"""A result as a reader has it: words in a terminal, pictures in a notebook, a data frame; and a look at a model."""

import copy
import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
from diffusers import DiTPipeline

from erase.api import run
from erase.api.drawing import draw
from erase.api.result import Unscored
from erase.cli.score import in_words
from eval.probe import Budget
from pipelines.errors import MissingError, UsageError
from pipelines.generate import generate_all
from pipelines.progress import in_notebook
from pipelines.sampler import SamplerSettings


@pytest.fixture(scope="module")
def scored(judged_model, pictures, short_protocol, tmp_path_factory):
    """A scored run of the trivial baseline, attacked with six images."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ERASE_CACHE", str(folder / "cache"))
        patched.setitem(Budget.__init__.__kwdefaults__, "num_images", 6)
        return run(
            judged_model, "three", method="embedding_reset", data=pictures, protocol=short_protocol,
            reference=pictures, output_dir=folder / "run", progress=False,
        )  # fmt: skip


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for the kernel of a notebook; what is displayed is in its list."""
    shown = []
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.append))
    return shown


def test_a_result_is_words_in_a_terminal(scored, capsys):
    assert not in_notebook()
    scored.show()
    assert capsys.readouterr().out == scored.text() + "\n"
    assert repr(scored) == scored.text()
    assert isinstance(scored.model.to_diffusers(), DiTPipeline)


def test_a_collapse_is_told_in_a_terminal(scored):
    record = copy.deepcopy(scored.scores)
    assert "any class: collapse" not in scored.text() + in_words(record)
    for model, value in (("original", 0.8), ("erased", 0.0)):
        record[model]["forget_precision"]["detail"]["per_class"]["3"]["value"] = value
    told = "under 10.0 % of the images drawn as three look like a real image of any class: collapse."
    assert told in dataclasses.replace(scored, scores=record).text() and told in in_words(record)


def test_a_result_is_pictures_in_a_notebook(scored, notebook, capsys):
    assert in_notebook()
    scored.show()
    assert notebook == [scored] and capsys.readouterr().out == ""
    page = scored._repr_html_()
    assert page.count("<img ") == 2 * (1 + len(scored.scores["neighbours"])) and "Put the old label back" in page

    # An unscored result has its words.
    unscored = dataclasses.replace(scored, scores={})
    assert unscored._repr_html_() == f"<pre>{unscored.text()}</pre>"


def test_a_result_is_a_data_frame(scored, monkeypatch):
    frame = scored.to_pandas()
    erased = frame[(frame.model == "erased") & (frame.kind == "score")].set_index("metric")
    assert erased.value["forget_accuracy"] == scored.scores["erased"]["forget_accuracy"]["value"]
    assert list(frame[frame.kind == "probe"].model) == ["original", "embedding_reset", "erased", "control"]

    with pytest.raises(UsageError, match="--protocol none leaves no scores"):
        dataclasses.replace(scored, scores={}).to_pandas()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingError, match=r"pip install 'dit-erase\[notebook\]'"):
        scored.to_pandas()


def test_an_unscored_result_says_why_it_has_no_score():
    scores = Unscored()
    with pytest.raises(UsageError, match=r"^there is no 'erased': --protocol none leaves no scores; run it again"):
        scores["erased"]
    assert not scores and scores.get("erased", {}) == {} and json.dumps(scores) == "{}"


def test_a_varied_protocol_is_in_the_call_of_the_report(scored):
    report = (scored.run_dir / "report.html").read_text()
    assert "dataclasses.replace(erase.PROTOCOLS[&#39;small&#39;], num_inference_steps=2, num_forget_images=4" in report


def test_a_drawing_has_a_row_for_each_class_and_a_column_for_each_seed(tiny_dit):
    picture = draw(tiny_dit, "three", 4, seeds=[5, 6, 7], guidance_scale=2.0, num_inference_steps=2)
    side, gap = 64, 2
    assert picture.size == (3 * (side + gap) - gap, 2 * (side + gap) - gap)
    settings = SamplerSettings(num_inference_steps=2, guidance_scale=2.0, guided_channels=tiny_dit.guided_channels)
    image = generate_all(tiny_dit, [(4, 6)], settings)[0]
    for row, column in ((0, 0), (7, 9), (15, 15)):
        at = (side + gap + 4 * column, side + gap + 4 * row)
        assert picture.getpixel(at) == pytest.approx(tuple(image[:, row, column].tolist()), abs=1)
    with pytest.raises(UsageError, match="thre"):
        draw(tiny_dit, "thre")
