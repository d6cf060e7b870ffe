"""The report page, its pictures and charts: whole, self-contained, within its budget and readable without a picture."""

import copy
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from eval import words
from eval.charts import SERIES_COLOURS, bar_chart, height, line_chart, linear_ticks, log_ticks
from eval.pictures import before_after, data_uri, grid, save_archive, save_png, scale_within
from eval.report import Report, pictured_classes, render_report, write_report
from pipelines.text import listed

HISTORY = [{"step": step, "forget_loss": 1 + step / 10, "retain_loss": 1.0, "forget_grad_norm": 10.0 ** -(step / 10)}
           for step in range(0, 50, 10)]  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    VOID = ("meta", "img", "input", "br", "link", "rect", "line", "polyline")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_tells_the_outcome_in_plain_words(report):
    page = Page(render_report(report))
    assert not page.open
    assert "three erased from toy" in page.text
    assert "Asked for “three”, the model draws it in 0.0 % of images. Before, it was 100.0 %." in page.text
    for part in ("Everything else", "Scores", "Accuracy by class", "What “three” draws now", "or only avoided",
                 "How the erasure went", "Do it again", "Embedding reset (trivial", "Not measured"):  # fmt: skip
        assert part in page.text, part
    assert "method sfron" in page.text


def test_the_page_is_self_contained_and_accessible(report):
    text = render_report(report)
    page = Page(text)
    assert not re.search(r"https?://|url\(|@import|<link", text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) > 10
    assert all(image["src"].startswith("data:image/png;base64,") and "alt" in image for image in images)
    assert sum(image["alt"] == "" for image in images) == 1  # the copy under the slider
    assert len(page.ids) == len(set(page.ids))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert ("html", {"lang": "en"}) in page.tags
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_the_command_is_left_exactly_as_it_was_typed_and_escaped(report):
    text = render_report(report)
    assert "<code>erase run three --note &#34;&lt;50 %&gt;&#34;</code>" in text
    hostile = copy.deepcopy(dict(report.record))
    hostile["class_names"] = ["<script>x</script>"] * 5
    assert "<script>x" not in render_report(replace(report, record=hostile))


def test_only_the_record_is_indispensable(report):
    record = copy.deepcopy(dict(report.record))
    record["probes"] = {}
    page = Page(render_report(Report(record=record)))
    assert "Scores" in page.text and "How the erasure went" not in page.text
    for model in ("original", "erased", "delta"):
        record[model] = {"forget_accuracy": record[model]["forget_accuracy"]}
    record["neighbours"] = []
    assert "Forget accuracy" in Page(render_report(Report(record=record))).text


def test_collapse_is_called_by_its_name(report):
    record = copy.deepcopy(dict(report.record))
    assert "with care" not in render_report(report)
    record["delta"]["retain_accuracy"]["value"] = -0.4
    assert "the other classes lost 40 points" in render_report(replace(report, record=record))
    record["erased"]["forget_degenerate_rate"]["value"] = 1.0
    assert "100.0\N{NO-BREAK SPACE}% of the images are blank" in render_report(replace(report, record=record))


def test_a_label_that_draws_nothing_like_a_real_image_is_called_collapsed(report):
    """Also where the classifier still calls it the class, and no image is blank."""
    record = copy.deepcopy(dict(report.record))
    (label,) = record["original"]["forget_precision"]["detail"]["per_class"]
    shares = [record[model]["forget_precision"]["detail"]["per_class"] for model in ("original", "erased")]
    before, after = (each[label] for each in shares)
    assert before["value"] > 0.5
    after["value"] = 0.09
    assert "look like a real image of any class: collapse" in Page(render_report(replace(report, record=record))).text
    for value in (0.09, None):  # an original that draws like no real image proves nothing
        before["value"] = value
        assert "any class: collapse" not in Page(render_report(replace(report, record=record))).text


def test_a_thousand_classes_of_large_noise_stay_under_five_megabytes(report, tmp_path):
    record = copy.deepcopy(dict(report.record))
    record["class_names"] = [f"class number {index} with a rather long name" for index in range(1000)]
    for model in ("original", "erased"):
        per_class = record[model]["retain_accuracy"]["detail"]["per_class"]
        entry = per_class["0"]
        per_class.update({str(index): {**entry, "value": index / 1000} for index in range(5, 1000)})
    classes = [3, 0, 1, 2, 4, 50, 60, 70]
    noise = torch.randint(0, 256, (8, 8, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_png(grid(noise[0], columns=8), tmp_path / "preview.png")
    previews = dict.fromkeys(range(60), tmp_path / "preview.png")
    samples = {"original": noise, "erased": noise}
    big = replace(report, record=record, samples=samples, sampled_classes=classes, previews=previews)
    text = render_report(big)
    assert 3_000_000 < len(text.encode()) < 5_000_000
    assert "983 more classes" in Page(text).text


def test_the_report_is_written_whole(report, tmp_path):
    write_report(tmp_path / "report.html", report)
    assert (tmp_path / "report.html").read_text() == render_report(report)


def test_pictured_classes_start_with_what_matters(report):
    chosen = pictured_classes(report.record)
    assert chosen[:4] == [3, *report.record["neighbours"]]
    assert sorted(chosen) == [0, 1, 2, 3, 4]
    many = {**report.record, "class_names": list(range(1000))}
    assert pictured_classes(many) == pictured_classes(many) and len(pictured_classes(many)) == 10


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0.0, "share", "0.0 %"), (0.97, "share", "97.0 %"), (7.4213, "distance", "7.42"), (0.00123, "distance", "0.00123"),
    (408.07, "distance", "408"), (12345.6, "distance", "12,346"), (1.5, "bits", "1.50 bits"),
    (None, "share", "not measured"),
])  # fmt: skip
def test_numbers_in_words(value, unit, text):
    assert words.number(value, unit) == text


def test_sentences_and_verdicts(report):
    expected = "Forget accuracy 0.0 % (was 100.0 %), lower is better"
    assert words.sentence("forget_accuracy", report.record) == expected
    assert words.interval({"low": 0.0, "high": 0.0038}, "share") == "0.0 to 0.4 %"
    assert words.change({"value": -0.97}, "share") == "\N{MINUS SIGN}97.0 points"
    assert words.verdict("forget_accuracy", {"value": -0.9, "low": -1, "high": -0.8}) == "better"
    assert words.verdict("retain_accuracy", {"value": -0.9, "low": -1, "high": -0.8}) == "worse"
    assert words.verdict("retain_accuracy", {"value": -0.01, "low": -0.05, "high": 0.03}) == "no clear change"
    assert words.verdict("frechet", {"value": 0.1, "low": None, "high": None}) == ""
    assert words.verdict("erased_entropy", {"value": 1.0}) == ""
    assert listed([]) == "" and listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert words.model_name({"models": {"original": {"source": "/runs/a/model"}}}) == "model"
    assert words.model_name({"models": {"original": {"source": "facebook/DiT-XL-2-256"}}}) == "facebook/DiT-XL-2-256"


def test_a_grid_puts_every_pixel_where_it_belongs(tmp_path):
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 2) * 10
    picture = grid(images, columns=3, scale=2, gap=1)
    assert picture.size == (3 * 5 - 1, 2 * 5 - 1)
    assert [picture.getpixel((x, y))[0] for x, y in ((0, 0), (5, 0), (13, 3), (0, 5), (8, 8))] == [0, 10, 20, 30, 40]
    assert picture.getpixel((4, 0)) == picture.getpixel((12, 7)) == (255, 255, 255)
    assert grid(images, columns=3, transparent=True).getpixel((2, 0))[3] == 0
    save_png(picture, tmp_path / "a.png")
    assert list(Image.open(tmp_path / "a.png").get_flattened_data()) == list(picture.get_flattened_data())
    assert data_uri(picture).startswith("data:image/png;base64,")


def test_an_archive_holds_every_pixel_once_and_in_order(tmp_path):
    images = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([8, 8, 8, 3, 3, 3, 1])
    batches = zip(images.split(3), labels.split(3), strict=True)
    save_archive(batches, tmp_path / "a.npz", count=7)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive.files == ["arr_0", "arr_1"]
        assert archive["arr_0"].dtype == np.uint8 and archive["arr_1"].dtype == np.int64
        assert np.array_equal(archive["arr_0"], images.permute(0, 2, 3, 1).numpy())  # (N, H, W, 3)
        assert archive["arr_1"].tolist() == labels.tolist()


def test_the_labelled_picture_shows_both_sides():
    images = torch.full((8, 3, 16, 16), 200, dtype=torch.uint8)
    picture = before_after([("three", images, images // 2), ("a longer name", images, images)], columns=8, scale=2)
    colours = picture.getcolors(maxcolors=100_000)
    assert {(200, 200, 200), (100, 100, 100)} <= {colour for _, colour in colours}


@pytest.mark.parametrize(
    ("size", "count", "scale"), [(32, 100, 4), (256, 10, 0.5), (256, 400, None), (64, 9_999, None)]
)
def test_scales_keep_to_the_budget(size, count, scale):
    found = scale_within(size, count, budget=4_000_000, preferred=128)
    assert scale is None or found == scale
    if found < 1:
        assert (size * found) ** 2 * 3 * 4 / 3 * count <= 4_000_000


def test_charts_scale_and_break_where_a_value_is_missing():
    history = [*HISTORY, {"step": 50, "forget_loss": None}, {"step": 60, "forget_loss": float("nan")}]
    chart = line_chart("loss", [*history, {"step": 70, "forget_loss": 2.0}, {"step": 80, "forget_loss": 3.0}],
                       {"forget_loss": "forget", "retain_loss": "retain", "absent": "absent"})  # fmt: skip
    assert [(line.name, len(line.segments), line.emphasis) for line in chart.lines] == [
        ("forget", 2, True), ("retain", 1, False)]  # fmt: skip
    assert (chart.first_step, chart.last_step, chart.logarithmic) == (0, 80, False)
    points = [float(part) for line in chart.lines for run in line.segments for part in re.split("[ ,]", run)]
    assert min(points) >= 0 and max(points) <= 100
    assert line_chart("norm", HISTORY, {"forget_grad_norm": "forget"}).logarithmic
    assert line_chart("loss", [], {"forget_loss": "forget"}) is None
    assert line_chart("loss", HISTORY[:1], {"forget_loss": "forget"}) is None


def test_ticks_are_round_and_enclose():
    assert linear_ticks(0.18, 1.41) == [0, 0.5, 1, 1.5]
    assert linear_ticks(1.0, 1.0)[0] <= 1 <= linear_ticks(1.0, 1.0)[-1]
    assert log_ticks(0.5, 40) == [0.1, 1, 10, 100]
    assert len(log_ticks(1e-9, 1e9)) <= 6 + 1
    assert height(10, 1, 100, True) == pytest.approx(50)
    assert height(1, 1, 5, False) == 100


def test_bars_are_as_long_as_their_values():
    def in_words(value):
        return "diverged" if value is None else f"{value:.0%}"

    groups = {
        "salun": {"dual": 0.2, "shared": 0.4},
        "esd <new>": {"dual": 0.1, "shared": None},
        "none": {"shared": 0.0},
    }
    picture = ElementTree.fromstring(bar_chart("Gap to retrain", groups, in_words=in_words))
    rects = [each for each in picture if each.tag.endswith("rect")][2:]  # after those of the legend
    widths = [float(each.get("width")) for each in rects]
    assert widths[1] > 0 and widths == pytest.approx([widths[1] * part for part in (0.5, 1, 0.25, 0, 0)], abs=0.01)
    assert [each.get("class") for each in rects] == [f"series-{place}" for place in (0, 1, 0, 1, 1)]
    tops = [float(each.get("y")) for each in rects]
    assert tops == sorted(set(tops)) and tops[-1] + float(rects[-1].get("height")) < float(picture.get("height"))
    words = [each.text for each in picture if each.tag.endswith("text")]
    assert words[:3] == ["Gap to retrain", "dual", "shared"] and words.count("diverged") == 1 and "40%" in words
    assert picture.get("role") == "img" and picture.get("aria-label") == (
        "Gap to retrain: salun, dual 20%, shared 40%; esd <new>, dual 10%, shared diverged; none, shared 0%"
    )
    assert ElementTree.fromstring(bar_chart("empty", {"a": {"b": 0.0}}, in_words=str)) is not None
    with pytest.raises(ValueError, match="up to 4 series of values from 0 on"):
        bar_chart("negative", {"a": {"b": -0.1}}, in_words=str)


def test_every_series_stands_out_from_the_paper():
    def luminance(colour):
        shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for light, dark in SERIES_COLOURS:
        assert (luminance("#fcfbf9") + 0.05) / (luminance(light) + 0.05) >= 3
        assert (luminance(dark) + 0.05) / (luminance("#141413") + 0.05) >= 3


def test_failed_gates_stand_at_the_top(attacked, report):
    page = Page(render_report(attacked)).text
    assert "1 of 2 gates failed. fails recall>=2 recall is" in page and page.index("gates failed") < page.index(
        "Scores"
    )
    held = {**attacked.record, "gates": ["forget_accuracy<=0.1", "retain_drop<=1"]}
    assert "All 2 gates hold." in Page(render_report(replace(attacked, record=held))).text
    one = {**attacked.record, "gates": ["recovery.completion<=0.1"]}
    page = Page(render_report(replace(attacked, record=one))).text
    assert "The gate failed. fails recovery.completion<=0.1 recovery.completion has no value, which may take" in page
    assert "gate" not in Page(render_report(report)).text


def test_the_retrained_model_stands_beside_the_scores_and_the_pictures(attacked, report):
    page = Page(render_report(attacked))
    assert "Retrained recognised as “three”" in page.text and "Gap to retrain: " in page.text
    assert sum(attributes.get("data-name") == "Retrained" for _, attributes in page.tags) > 10
    without = Page(render_report(report))
    assert "Retrained" not in without.text and "Gap to retrain" not in without.text
