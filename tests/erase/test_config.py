"""Configurations: what is refused and in which words, round trips, and what a hash stands for."""

import dataclasses
import json
import math

import pytest

from erase.config import (
    WATCHING,
    EngineConfig,
    ErasureConfig,
    config_hash,
    erasure_from_dict,
    from_dict,
    read_yaml,
    to_dict,
    write_yaml,
)
from pipelines.errors import UsageError

SHARED = {"optimizers": "shared"}
FIELDS = {entry.name: entry for entry in dataclasses.fields(EngineConfig)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"update": "joint"}, "--update joint takes one step on the summed loss, so it needs --optimizers shared"),
        ({"forget_weight": 0.1}, "--forget-weight 0.1 has no effect with --optimizers dual: Adam cancels"),
        ({"retain_weight": 3.0}, "--retain-weight 3 has no effect with --optimizers dual: Adam cancels"),
        ({"combine": "pcgrad"}, "--combine pcgrad needs --update simultaneous with --optimizers shared"),
        ({"combine": "pcgrad", "update": "simultaneous"}, "--combine pcgrad needs --update simultaneous with"),
        ({"combine": "orthogonal", **SHARED}, "--combine orthogonal needs --update simultaneous with"),
        ({"update": "simultaneous", "forget_steps": 2}, "must be 1 with --update simultaneous"),
        ({"update": "joint", "retain_steps": 3, **SHARED}, "--forget-steps and --retain-steps must be 1"),
        ({"update": "joint", "forget_learning_rate": 1e-3, **SHARED}, "the forget and retain learning rates"),
        ({"update": "simultaneous", "retain_lr_schedule": "constant", **SHARED}, "their schedules must be equal"),
        ({"update": "joint", "forget_clip": 0.5, **SHARED}, "--forget-clip and --retain-clip must be equal"),
        ({"robust_steps": 5}, "--robust-steps 5 has no effect without --robust"),
        ({"robust_attacker": "sgd"}, "--robust-attacker sgd has no effect without --robust"),
        ({"robust_every": 2}, "--robust-every 2 has no effect without --robust"),
        ({"robust_learning_rate": 1e-3}, "--robust-learning-rate 0.001 has no effect without --robust"),
        ({"stop_below": 1.5}, "--stop-below 1.5 must be a share of at most 1"),
        ({"divergence_factor": 0.9}, "--divergence-factor 0.9 must be at least 1"),
        ({"divergence_factor": math.nan}, "--divergence-factor nan must be at least 1"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused_with_the_reason(settings, sentence):
    with pytest.raises(UsageError) as caught:
        EngineConfig(**settings)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"forget_weight": 0.1, **SHARED},
        {"forget_weight": 0.1, "forget_weight_schedule": "cosine"},  # a schedule is not cancelled
        {"retain_weight": 3.0, **SHARED},
        {"update": "joint", **SHARED},
        {"update": "simultaneous", "forget_learning_rate": 1e-3},
        {"update": "simultaneous", "combine": "pcgrad", **SHARED},
        {"forget_steps": 2, "retain_steps": 3, **SHARED},
        {"robust": True, "robust_steps": 5, "robust_every": 2, "robust_attacker": "sgd", "robust_learning_rate": 1e-3},
        {"stop_below": 1.0},
        {"forget_learning_rate": 0},  # a whole number is a number
    ],
)
def test_settings_that_mean_something_are_taken(settings):
    assert EngineConfig(**settings)


@pytest.mark.parametrize("name", [name for name, entry in FIELDS.items() if type(entry.default) in (int, float)])
def test_every_number_is_held_to_its_type_and_its_least_value(name):
    flag = f"--{name.replace('_', '-')}"
    whole = type(FIELDS[name].default) is int
    for wrong in ("2e-4", None, True, [1]):
        with pytest.raises(UsageError, match=f"{flag} .* is not a {'whole ' if whole else ''}number"):
            EngineConfig(**{name: wrong})
    if name in ("forget_weight", "retain_weight"):  # any sign may be asked of a loss
        return
    for wrong in (-1, *([1.5] if whole else [math.nan])):
        with pytest.raises(UsageError, match=f"{flag} {wrong} (must be at least|is not a whole)"):
            EngineConfig(**{name: wrong})


@pytest.mark.parametrize(
    "name", ["steps", "forget_steps", "retain_batch_size", "log_every", "robust_every", "stop_every"]
)
def test_counts_start_at_one(name):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} 0 must be at least 1"):
        EngineConfig(**{name: 0})


def test_choices_are_listed_and_flags_are_true_or_false():
    with pytest.raises(UsageError, match="--update 'both' is not one of alternate, joint, simultaneous"):
        EngineConfig(update="both")
    with pytest.raises(UsageError, match="--robust 'yes' is not true or false"):
        EngineConfig(robust="yes")
    with pytest.raises(UsageError, match=r"YAML needs 2\.0e-4, not 2e-4"):
        EngineConfig(forget_learning_rate="2e-4")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"seed": "three"}, "--seed 'three' is not a whole number"),
        ({"seed": 1.0}, "--seed 1.0 is not a whole number"),
        ({"fisher_samples": "many"}, "--fisher-samples 'many' is not a whole number"),
        ({"fisher_samples": 0}, "--fisher-samples 0 must be at least 1"),
        ({"replay_per_class": 0}, "--replay-per-class 0 must be at least 1"),
        ({"replay_guidance": -1.0}, "--replay-guidance -1.0 must be at least 0"),
        ({"replay_confidence": 1.0}, "--replay-confidence 1.0 must lie in [0, 1)"),
    ],
)
def test_an_erasure_holds_its_own_numbers_to_the_same(settings, sentence):
    with pytest.raises(UsageError) as caught:
        ErasureConfig(**settings)
    assert str(caught.value) == sentence


def test_every_field_of_the_engine_has_one_line_of_help():
    for entry in FIELDS.values():
        assert 10 < len(entry.metadata["help"]) < 110 and "\n" not in entry.metadata["help"]


@pytest.fixture
def config():
    """A configuration in which hardly anything is a default."""
    engine = EngineConfig(steps=7, optimizers="shared", forget_weight=1e-3, forget_learning_rate=1 / 3, stop_below=0.1)
    return ErasureConfig(
        model="some/folder",
        forget_classes=(3, 8),
        method="sfron",
        method_options={"mask_threshold": 0.1 + 0.2, "forget_vlb": "full"},
        engine=engine,
        data="pictures.zip",
        replay_per_class=3,
        fisher_samples=5,
        seed=12345678901234567,
    )


def test_yaml_and_json_give_the_same_configuration_back(config, tmp_path):
    write_yaml(config.as_dict(), tmp_path / "config.yaml")
    assert erasure_from_dict(read_yaml(tmp_path / "config.yaml")) == config
    assert erasure_from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert erasure_from_dict(config.as_dict()).hash == config.hash
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]
    assert from_dict(EngineConfig, to_dict(config.engine)) == config.engine


def test_the_file_lists_every_field_in_order(config, tmp_path):
    write_yaml(config.as_dict(), tmp_path / "config.yaml")
    values = read_yaml(tmp_path / "config.yaml")
    assert list(values) == [entry.name for entry in dataclasses.fields(ErasureConfig)]
    assert list(values["engine"]) == list(FIELDS)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "", "a: [1\n", "{"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"config\.yaml (does not hold a mapping|is not YAML)"):
        read_yaml(tmp_path / "config.yaml")


def test_unknown_keys_name_the_options():
    with pytest.raises(UsageError) as caught:
        from_dict(EngineConfig, {"steps": 3, "learning_rate": 1.0})
    sentence = str(caught.value)
    assert sentence.startswith("'learning_rate' is not an option of EngineConfig; the options are average_half_life,")
    assert all(name in sentence for name in FIELDS)
    for values in ({"class": 3}, {"engine": {"lr": 1.0}}):
        with pytest.raises(UsageError, match="is not an option of"):
            erasure_from_dict(values)


def test_the_hash_covers_what_decides_the_weights(config):
    others = [
        dataclasses.replace(config, **changed)
        for changed in (
            {"model": "other"}, {"forget_classes": (3,)}, {"method": "esd"}, {"seed": 1},
            {"method_options": {}}, {"data": "replay"}, {"replay_per_class": 4}, {"fisher_samples": 6},
            {"replay_guidance": 2.0}, {"replay_confidence": 0.9},
            {"engine": dataclasses.replace(config.engine, steps=8)},
            {"engine": dataclasses.replace(config.engine, divergence_factor=3.0)},
        )
    ]  # fmt: skip
    hashes = {config.hash, *(each.hash for each in others)}
    assert len(hashes) == 13 and all(len(each) == 12 and int(each, 16) >= 0 for each in hashes)


def test_a_posterior_left_to_the_model_says_nothing(config):
    assert "posterior" not in config.identity() and config.posterior == "auto"
    kinds = {dataclasses.replace(config, posterior=kind).hash for kind in ("auto", "network", "head")}
    assert len(kinds) == 3 and config.hash in kinds
    with pytest.raises(UsageError, match=r"--posterior 'mlp' is not one of auto, network, head"):
        dataclasses.replace(config, posterior="mlp")


def test_the_hash_ignores_settings_that_only_watch_and_the_order_of_keys(config):
    assert set(WATCHING) == {"diagnostics", "log_every", "checkpoint_every", "preview_every"}
    for name in WATCHING:
        value = False if name == "diagnostics" else 3
        watched = dataclasses.replace(config, engine=dataclasses.replace(config.engine, **{name: value}))
        assert watched.hash == config.hash and watched.identity() == config.identity() and watched != config
    turned = dataclasses.replace(config, method_options=dict(reversed(config.method_options.items())))
    assert turned.hash == config.hash
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
