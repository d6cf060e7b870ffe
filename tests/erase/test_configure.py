"""Requests resolved into complete configurations, or refused in words that say what to do."""

import re
import shutil

import pytest

from erase.config import EngineConfig
from erase.configure import configure, method_of
from erase.erasure import run_erasure
from erase.methods.sfron import SFRon
from pipelines.classes import UnknownClassError
from pipelines.errors import MissingError, UsageError


@pytest.mark.parametrize(
    ("classes", "found"),
    [(["three"], (3,)), ([3], (3,)), (["3"], (3,)), (["Three", 8, "3"], (3, 8)), (["nine", "zero"], (0, 9))],
)
def test_classes_are_resolved_once_each(configured, classes, found):
    assert configured("esd", *classes).forget_classes == found


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["elephant"], "elephant"),
        (["thre"], "three"),  # the close spelling is offered
        ([10], "null"),
        (["null"], "null"),
        ([11], "out of range"),
        ([True], "bool"),
        (list(range(10)), "every class of the model was named: at least one must be retained"),
    ],
)
def test_classes_that_cannot_be_erased_are_refused(configured, classes, words):
    with pytest.raises(UsageError, match=words):
        configured("esd", *classes)


def test_a_refused_class_names_the_model_that_was_asked(tiny_folder):
    with pytest.raises(
        UnknownClassError, match=rf"--model {re.escape(str(tiny_folder))}: no class is called 'elephant'"
    ):
        configure(str(tiny_folder), ["elephant"])


def test_no_class_is_no_request(tiny_folder):
    with pytest.raises(UsageError, match="no class to erase was named"):
        configure(str(tiny_folder), [])


def test_unknown_words_list_what_there_is(configured, tiny_folder, tmp_path):
    with pytest.raises(UsageError, match=r"--method 'scrub' is not one of .*sfron"):
        configured("scrub")
    with pytest.raises(UsageError, match="--preset 'papers' is not one of default, paper"):
        configured(preset="papers")
    with pytest.raises(
        UsageError, match=r"--eta is no option of `erase run` nor of method esd; .*--negative-guidance, --retain-label"
    ):
        configured("esd", eta=1.0)
    with pytest.raises(UsageError, match="--forget-classes is no option of `erase run`"):
        configured("esd", forget_classes=(1,))
    with pytest.raises(UsageError, match="--weight-power 'half' is not a number"):
        configured(weight_power="half")
    with pytest.raises(UsageError, match="--seed 'x' is not a whole number"):
        configured(seed="x")
    with pytest.raises(MissingError, match=r"--data .*nowhere does not exist"):
        configured(data=str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match="neither an embedded model"):
        configure("/no/such/model", ["three"])


def test_a_slip_of_spelling_is_answered_with_the_option(configured):
    for slip, meant in (("stepss", "--steps"), ("protocl", "--protocol"), ("weight_pwer", "--weight-power")):
        with pytest.raises(UsageError, match=rf"did you mean {meant}\?"):
            configured("sfron", **{slip: 3})


@pytest.mark.parametrize(
    ("method", "option", "reason"),
    [
        ("embedding_reset", {"steps": 5}, "--steps 5 has no effect: method embedding_reset takes no steps"),
        ("retrain", {"log_every": 5}, "--log-every 5 has no effect: method retrain takes no steps"),
        ("esd", {"fisher_samples": 9}, "--fisher-samples 9 has no effect: method esd needs no Fisher"),
        ("esd", {"posterior": "head"}, "--posterior head has no effect: method esd needs no posterior"),
        ("esd", {"stop_every": 9}, "--stop-every 9 has no effect: without --stop-below"),
    ],
)
def test_an_option_without_effect_is_refused(configured, method, option, reason):
    with pytest.raises(UsageError, match=reason):
        configured(method, **option)


def test_replay_counts_without_replay_are_refused(configured, tmp_path):
    with pytest.raises(UsageError, match=r"--replay-per-class 5 has no effect: --data .* is not replay"):
        configured("esd", data=str(tmp_path), replay_per_class=5)
    for name, value in (("replay_guidance", 2.0), ("replay_confidence", 0.5)):
        with pytest.raises(
            UsageError, match=f"--{name.replace('_', '-')} {value} has no effect: --data .* is not replay"
        ):
            configured("esd", data=str(tmp_path), **{name: value})
    assert configured("selective_amnesia", data=str(tmp_path), replay_guidance=2.0).replay_guidance == 2
    with pytest.raises(UsageError, match=r"--replay-confidence 0.5 needs a classifier, and model .* ships none"):
        configured("esd", replay_confidence=0.5)
    assert configured("selective_amnesia", data=str(tmp_path), replay_per_class=5).replay_per_class == 5
    assert configured("sfron", stop_every=9, stop_below=0.1).engine.stop_every == 9


def test_a_request_is_checked_without_reading_a_weight(tiny_folder, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = configure(str(folder), ["three"], method="sfron", options={"steps": 3})
    assert config.engine == EngineConfig(steps=3) and config.data == "replay"
    with pytest.raises(MissingError, match="safetensors"):
        run_erasure(config)


def test_options_go_before_the_preset_and_the_preset_before_defaults(tiny_folder, monkeypatch):
    own = {"steps": 7, "retain_steps": 3, "forget_batch_size": 9, "mask_threshold": 2.0, "fisher_samples": 50}
    monkeypatch.setattr(SFRon, "defaults", own)
    default = configure(str(tiny_folder), ["three"], method="sfron", options={"forget_batch_size": 8, "seed": 2})
    assert (default.engine.steps, default.engine.retain_steps, default.engine.optimizers) == (7, 3, "dual")
    assert (default.engine.forget_batch_size, default.seed) == (8, 2)  # given
    assert (default.method_options["mask_threshold"], default.fisher_samples) == (2.0, 50)

    given = {"steps": 11, "weight_power": 0.25}
    paper = configure(str(tiny_folder), ["three"], method="sfron", preset="paper", options=given)
    assert (paper.engine.steps, paper.engine.retain_steps, paper.fisher_samples) == (11, 3, 2000)
    assert (paper.engine.optimizers, paper.engine.forget_weight) == ("shared", 1e-3)
    assert (paper.method_options["weight_power"], paper.method_options["forget_vlb"]) == (0.25, "full")
    assert paper.engine.log_every == EngineConfig().log_every
    assert method_of(paper) == SFRon(weight_power=0.25, mask_threshold=2.0, forget_vlb="full", forget_label_dropout=0.1)


def test_an_attack_of_the_defaults_goes_as_a_whole(configured):
    """``--no-robust`` needs no second flag; without the attack its other settings are refused as ever."""
    shipped = configured("retain_posterior").engine
    assert shipped.robust and shipped.robust_target == "label"
    plain = configured("retain_posterior", robust=False).engine
    assert not plain.robust and plain.robust_target == "weights"
    weights = configured("retain_posterior", robust_target="weights").engine
    assert weights.robust and weights.robust_label_life == EngineConfig().robust_label_life != shipped.robust_label_life
    with pytest.raises(UsageError, match="--robust-target label has no effect without --robust"):
        configured("retain_posterior", robust=False, robust_target="label")


def test_numbers_of_phases_of_the_defaults_go_where_phases_do_not_alternate(configured):
    """``--update simultaneous`` needs no second flag either; a number that is given is refused as ever."""
    assert configured("retain_posterior").engine.retain_steps == 2
    assert configured("retain_posterior", update="simultaneous").engine.retain_steps == 1
    with pytest.raises(UsageError, match="--forget-steps and --retain-steps must be 1 with --update simultaneous"):
        configured("retain_posterior", update="simultaneous", retain_steps=2)


def test_a_loss_that_says_nothing_under_an_attackers_row_is_not_defended(configured):
    """Relabelling changes nothing there, and a target of the current model is the prediction itself."""
    attacked = {"robust": True, "robust_target": "label"}
    for method in ("relabel", "random_label", "salun"):
        with pytest.raises(
            UsageError, match=rf"--robust-target label: the forget loss of method {method} says nothing"
        ):
            configured(method, **attacked)
        assert configured(method, robust=True).engine.robust
    for method, options in (("esd", {}), ("salun", {"target_model": "reference"}), ("gradient_ascent", {})):
        assert configured(method, **attacked, **options).engine.robust_target == "label"


def test_the_configuration_is_complete(configured):
    """Defaults are written out: a later default cannot change what a saved run was."""
    config = configured("salun", seed=5)
    assert config.method_options == {"retain_label_dropout": 0.1, "mask_fraction": 0.5, "target_model": "current"}
    assert (config.seed, config.replay_per_class, config.method) == (5, 4, "salun")
