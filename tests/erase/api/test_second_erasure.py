"""A class erased from an erased model: the first class stays out of everything that is trained, and is scored apart."""

import copy

import pytest
import torch

from erase import erasure
from erase.api import evaluate, plan, request, run
from erase.configure import configure, method_of
from erase.erasure import load_original, prepare
from erase.method import other_class
from eval.probe import Budget
from eval.words import earlier_sentence
from pipelines.errors import UsageError
from pipelines.files import read_json
from pipelines.model_source import load_classes
from pipelines.posterior import PosteriorRecipe
from pipelines.replay import Replay, replay_latents

QUICK = {"steps": 2, "forget_batch_size": 8, "retain_batch_size": 8}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def first(judged_model, pictures, short_protocol, erase_cache, tmp_path_factory):
    """A scored run that erased three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Budget.__init__.__kwdefaults__, "num_images", 6)
        patch.setenv("ERASE_CACHE", str(erase_cache))
        return run(
            judged_model, "three", method="embedding_reset", data=pictures, protocol=short_protocol,
            reference=pictures, output_dir=tmp_path_factory.mktemp("first") / "run", progress=False,
        )  # fmt: skip


@pytest.fixture
def prepared(first, pictures, erase_cache, monkeypatch):
    """``prepared(method, ...)``: the workspace of erasing four from the first run's model."""
    monkeypatch.setattr(erasure, "recipe_of", lambda kind, num_classes: PosteriorRecipe(steps=4, batch_size=16))

    def make(method="retain_posterior", *, classes=("four",), data=None, **options):
        config = configure(str(first.run_dir), classes, method=method, data=data or pictures, options=options)
        model = load_original(config, device="cpu")
        return prepare(model, config, method_of(config), cache_dir=erase_cache, work_dir=None, progress=False)

    return make


@pytest.mark.parametrize("data", ["images", "sample", "replay"])
def test_the_first_class_is_in_no_training_data(prepared, data):
    options = {"retain_images": 20} if data == "sample" else {}
    if data == "replay":
        options = {"replay_per_class": 2}
    workspace = prepared(data="replay" if data == "replay" else None, **options)
    kept = [0, 1, 2, 5, 6, 7, 8, 9]
    assert workspace.retain.class_labels.unique().tolist() == kept == workspace.retained_classes
    assert workspace.forget.class_labels.unique().tolist() == [4]
    assert workspace.earlier_classes == (3,) and workspace.removed_classes == (4, 3)
    if data == "sample":  # all twenty images are of the nine classes that are there, two or three of each
        assert len(workspace.retain) in (17, 18)


def test_replay_without_a_class_draws_only_the_others(loaded_dit, tmp_path):
    cached = {"seed": 0, "cache_dir": tmp_path, "progress": False}
    drawn = replay_latents(loaded_dit, Replay(per_class=2, without=(3,)), **cached)
    assert drawn.class_labels.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9] * 2
    whole = replay_latents(loaded_dit, Replay(per_class=2), **cached)
    assert len(whole) == 20 and len(list(tmp_path.iterdir())) == 2


def test_the_posterior_and_the_replacements_leave_the_first_class_out(prepared):
    workspace = prepared(classes=("two",))
    batch = method_of(configure("digits", ["two"])).forget_batch(workspace, 0, 0, 16)
    shares = workspace.posterior.retained(batch.noised, workspace.removed_classes)
    assert (shares[:, [2, 3]] == 0).all() and torch.allclose(shares.sum(1), torch.ones(16))
    assert other_class(workspace, 2) == 4  # three is skipped


@pytest.mark.parametrize("method", ["selective_amnesia", "salun", "random_label", "sfron"])
def test_every_kind_of_method_takes_a_second_class(prepared, method):
    options = {"fisher_samples": 3} if method in ("selective_amnesia", "sfron") else {}
    options |= {"replay_per_class": 2} if method == "selective_amnesia" else {}
    workspace = prepared(method, **options)
    assert 3 not in workspace.retain.class_labels
    assert 3 not in workspace.retained_classes


def test_a_second_run_scores_the_first_class_apart(
    first, pictures, short_protocol, few_images, tmp_path, monkeypatch, erase_cache
):
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))
    second = run(
        str(first.run_dir), "four", method="gradient_ascent", data=pictures, options=QUICK, protocol=short_protocol,
        reference=pictures, output_dir=tmp_path / "second", progress=False,
    )  # fmt: skip
    record = read_json(tmp_path / "second" / "eval" / "results.json")
    assert list(record["earlier"]) == ["3"] and record["forget_classes"] == [4]

    # Before the second erasure the first class is where the first run left it, on the same seeds.
    left = first.scores["erased"]["forget_accuracy"]
    assert record["earlier"]["3"]["original"]["value"] == left["value"]
    assert record["earlier"]["3"]["erased"]["n"] == left["n"] == 4
    for model in ("original", "erased"):
        assert set(record[model]["retain_accuracy"]["detail"]["per_class"]) == set("01256789")
        assert "3" not in map(str, record[model]["erased_top_share"]["detail"]["per_class"]["4"]["nearest"])
    assert record["reference"]["n"] == 3 * 8 and 3 not in record["neighbours"]
    assert record["class_names"][3] == "three"
    assert record["probes"]["embedding_restore"]["control"]["detail"]["class_label"] not in (3, 4)

    # It is said wherever the scores are.
    assert earlier_sentence("3", record) in second.text()
    page = (tmp_path / "second" / "report.html").read_text()
    assert "Forget accuracy of three, erased before" in page and "The other 8 classes" in page
    card = (tmp_path / "second" / "model" / "README.md").read_text()
    assert "without three and four" in card and "Forget accuracy of three, erased before" in card
    assert second.model.provenance["original"]["erased"]["forget_classes"] == [3]
    assert load_classes(tmp_path / "second").resolve("three") == 3


def test_a_class_that_only_the_erased_model_lost_is_no_retained_class(first, judged_model, pictures, short_protocol):
    record = evaluate(
        str(first.run_dir), "eight", original=judged_model, protocol=short_protocol, reference=pictures, progress=False
    )
    assert record["forget_classes"] == [8] and list(record["earlier"]) == ["3"]
    assert "3" not in record["erased"]["retain_accuracy"]["detail"]["per_class"]


def test_the_plan_says_what_is_gone(first, pictures, short_protocol, capsys):
    config = configure(str(first.run_dir), ["four"], method="gradient_ascent", data="replay")
    counted = plan.count(config, short_protocol, CPU)
    assert counted["erase"] == ["four"] and counted["erased_before"] == ["three"]
    assert counted["rows"]["preparation"] == 100 * 9 * 20
    assert counted["rows"]["scoring"] == (2 * (4 * 2 + 18) + 4 * 2 * 250) * 2
    assert "gone       three: erased before" in plan.text(counted)
    plan.tell(config, (9, 5))
    told = capsys.readouterr().err
    assert "three: erased before" in told and "neighbours: 9 nine, 5 five" in told

    # The class itself, once more.
    again = configure(str(first.run_dir), ["three"], method="gradient_ascent", data="replay")
    (sentence,) = plan.count(again, None, CPU)["warnings"]
    assert sentence.startswith(f"three was erased from {first.run_dir} before")
    plan.tell(again, ())
    assert f"warning: {sentence}\n" in capsys.readouterr().err


def test_what_makes_no_sense_is_refused(first, judged_model, tmp_path):
    others = [name for name in load_classes(judged_model).labels if name != "three"]
    with pytest.raises(UsageError, match="every class of the model was named or was erased before"):
        configure(str(first.run_dir), others)
    again = configure(str(first.run_dir), ["three"])  # harder, from what is left of it
    assert again.forget_classes == (3,)
    assert request(str(first.run_dir), ["three"], protocol="none", output_dir=tmp_path / "x").config.hash == again.hash


def test_early_stopping_watches_neither_side_with_the_first_class(first, monkeypatch):
    from erase.api import stopping

    seen = []

    def draw(model, class_labels, seeds, settings):
        seen.append(set(class_labels.tolist()))
        return torch.zeros(len(class_labels), *model.latent_shape)

    monkeypatch.setattr(stopping, "sample_latents", draw)
    score = stopping.EarlyStopScore(lambda model, latents: torch.zeros(len(latents), dtype=torch.long), (4,))
    score(copy.copy(first.model))
    assert seen == [{4}, {0, 1, 2, 5, 6, 7, 8, 9}]
