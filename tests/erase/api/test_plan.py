"""The plan: counted from configurations alone, and checked against the model that it describes."""

import dataclasses
import math
import shutil

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from erase.api import plan
from erase.api.requesting import request
from erase.api.speed import BLOCK_SECONDS
from erase.configure import configure
from erase.memory import described, meta_transformer
from erase.rundir import RunDir
from eval.protocol import named
from pipelines import model_source
from pipelines.classes import ClassNames
from pipelines.embedding import untied_state_dict
from pipelines.errors import MissingError, UsageError
from pipelines.files import read_json
from pipelines.posterior_head import recipe_of, training_flops

CPU = torch.device("cpu")


@pytest.fixture
def bare_folder(tiny_folder, tmp_path):
    """The model's configurations without a single weight."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert not list(folder.rglob("*.safetensors"))
    return folder


@pytest.fixture
def counted(bare_folder):
    """``counted(method="sfron", steps=5)``: the plan of a request."""

    def count(protocol=None, data="replay", **options):
        method = options.pop("method", "gradient_ascent")
        config = configure(str(bare_folder), ["three", 5], method=method, data=data, options=options)
        return plan.count(config, protocol, CPU)

    return count


def test_weights_are_counted_once_although_diffusers_holds_copies(counted, loaded_dit):
    trainable = sum(each.numel() for each in loaded_dit.transformer.parameters())
    found = counted()
    assert found["trainable_weights"] == trainable
    vae = sum(each.numel() for each in loaded_dit.vae.parameters())
    untied = sum(each.numel() for each in untied_state_dict(loaded_dit.transformer).values())
    assert found["disk"]["model"] == 4 * (untied + vae)
    assert found["disk"]["checkpoint"] == 4 * 5 * trainable  # weights, and two moments for each optimizer
    assert counted(optimizers="shared")["disk"]["checkpoint"] == 4 * 3 * trainable
    assert counted(method="sfron")["disk"]["cache"] - found["disk"]["cache"] == 4 * 2 * trainable
    assert found["memory"]["retain phase"]["weights"] == 4 * (trainable + vae)


def test_the_flops_of_a_row_are_those_that_torch_counts(loaded_dit, bare_folder):
    latents, labels = torch.zeros(1, *loaded_dit.latent_shape), torch.tensor([3])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded_dit.predict(latents, torch.tensor([500]), labels)
    transformer = meta_transformer(described(read_json(bare_folder / "transformer" / "config.json")))
    assert plan.forward_flops(transformer) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_rows_follow_steps_phases_and_batches(counted):
    """A backward pass counts as two forwards."""
    sizes = {"steps": 10, "forget_batch_size": 4, "retain_batch_size": 8}
    replayed = 100 * 10 * 20  # images of each class, classes, sampling steps
    rows = counted(**sizes, forget_steps=2, retain_steps=3)["rows"]
    assert rows == {"preparation": replayed, "forget": 3 * 10 * 2 * 4, "retain": 3 * 10 * 3 * 8, "scoring": 0}
    frozen = counted(**sizes, method="salun", target_model="reference")["rows"]["forget"]
    assert frozen == (3 + 1) * 10 * 4  # one frozen forward more
    for mixture, per_image in (("draw", 3 + 1), ("sum", 3 + 1 + 8)):
        found = counted(**sizes, method="retain_posterior", mixture=mixture, robust=False)
        assert found["rows"]["forget"] == per_image * 10 * 4
    assert counted(**sizes, method="sfron", fisher_samples=7)["rows"]["preparation"] == replayed + 2 * 3 * 7
    robust = counted(**sizes, robust=True, robust_steps=9, robust_every=2)["rows"]["forget"]
    assert robust == 10 * 4 * (3 + 3 * (5 + 1) / 2)  # five attack steps on average, and the gradient after them
    label = {"robust_label_rows": 5, "robust_label_images": 2, "robust_label_steps": 7}
    robust = counted(**sizes, robust=True, robust_target="label", **label)["rows"]["forget"]
    assert robust == 10 * (4 * (3 + 3) + 7 * 5 * 2 * 3)  # seven attack steps of ten images


def test_the_posterior_is_named_and_paid(counted, bare_folder):
    """A head runs half of the two blocks: in each of its training rows, and once for each image of a forget batch."""
    sizes = {"steps": 10, "forget_batch_size": 4, "method": "retain_posterior", "robust": False}
    auto, network, head = (counted(**sizes, posterior=choice) for choice in ("auto", "network", "head"))
    assert auto["posterior"] == network["posterior"] == "a network of its own" and auto["tflop"] == network["tflop"]
    assert head["posterior"] == "a linear head on the first 1 of 2 blocks of the frozen model"
    assert head["rows"]["forget"] - network["rows"]["forget"] == 10 * 4 / 2
    assert "posterior  a linear head" in plan.text(head) and "posterior " not in plan.text(counted())

    config = meta_transformer(described(read_json(bare_folder / "transformer" / "config.json"))).config
    row = plan.forward_flops(meta_transformer(described(config)))
    trained = {kind: training_flops(kind, config, recipe_of(kind, 10), row_flops=row) for kind in ("network", "head")}
    spent = 1e12 * (head["tflop"] - network["tflop"])
    assert spent == pytest.approx(trained["head"] - trained["network"] + 20 * row)


def test_fisher_diagonals_take_time_in_small_models_too(counted):
    """Two of them, each of 500 images, 64 in a pass, forward and twice backward through two blocks; or one by one."""
    found = counted(method="sfron", fisher_samples=500, replay_per_class=1)
    assert found["seconds"]["preparation"] == pytest.approx(3 * 2 * math.ceil(500 / 64) * 2 * BLOCK_SECONDS)
    alone = counted(method="sfron", fisher_samples=500, replay_per_class=1, gradient_checkpointing=True)
    assert alone["seconds"]["preparation"] == pytest.approx(3 * 2 * 500 * 2 * BLOCK_SECONDS)
    told = plan.text(alone)
    assert "the Fisher diagonal of the forget set" in told and "as the retain set (about 6 s)\n" in told
    assert "prepares   nothing\n" in plan.text(counted(method="embedding_reset", data="digits"))


def test_replay_is_paid_only_where_it_is_used(counted, tmp_path):
    (tmp_path / "images").mkdir()
    images = str(tmp_path / "images")
    assert counted(data=images)["rows"]["preparation"] == 0
    assert counted(data=images, method="selective_amnesia", fisher_samples=1)["rows"]["preparation"] == 20_000 + 3
    assert counted(replay_per_class=2)["rows"]["preparation"] == 400
    assert counted(replay_per_class=2, replay_guidance=1.5)["rows"]["preparation"] == 800  # two rows a step


@pytest.mark.parametrize("method", ["embedding_reset", "retrain"])
def test_a_method_without_steps_plans_none(counted, method):
    found = counted(method=method)
    assert found["steps"] == found["rows"]["forget"] == 0
    trained = 3 * 15 * 16 if method == "retrain" else 0  # forward and backward of the steps and batches of its recipe
    assert found["rows"]["retain"] == trained


def test_scoring_counts_guided_rows_twice(counted):
    small = named("small")
    probed = (2 * 3 + 1) * 2 * 250  # three subjects of each class and the control, before and after
    images = 2 * (small.num_forget_images * 2 + small.num_retain_images) + probed
    assert counted(small)["rows"]["scoring"] == images * 20
    assert counted(dataclasses.replace(small, guidance_scale=1.5))["rows"]["scoring"] == images * 20 * 2


def test_the_plan_says_what_will_happen(counted, bare_folder):
    before = sorted(bare_folder.parent.rglob("*"))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    found = counted(named("small"), method="sfron", steps=40)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sorted(bare_folder.parent.rglob("*")) == before  # nothing is written
    assert found["erase"] == ["three", "five"] and found["needs"] == ["data_fisher", "forget_fisher"]
    assert sum(found["seconds"].values()) > 0 and found["tflop"] > 0

    text = plan.text(found)
    for words in (
        "three, five",
        "sfron, dual optimizers, 40 steps",
        "the Fisher diagonal of the forget set",
        "data       replay",
    ):
        assert words in text
    assert f"{found['trainable_weights']:,} trainable" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("memory")] == [
        "preparation", "forget", "retain", "log",
    ]  # fmt: skip


def test_auto_memory_says_what_it_chose(bare_folder, monkeypatch):
    config = configure(str(bare_folder), ["three"], method="salun", options={"retain_batch_size": 32})
    assert plan.fit(config, CPU, fixed=()) == (config, "")
    monkeypatch.setattr(plan, "free_bytes", lambda device: 1000)
    fitted, sentence = plan.fit(config, CPU, fixed=["diagnostics"])
    assert fitted.engine.forget_moments == "packed" and fitted.gradient_checkpointing and fitted.engine.diagnostics
    assert "--forget-moments packed --gradient-checkpointing" in sentence and sentence.endswith(
        "smaller batches alone do not help: it needs a device with more memory"
    )
    assert fitted.hash != config.hash


def salun_request(folder, **given):
    return request(str(folder), ["three"], method="salun", protocol="none", device="cpu", **given)


def test_a_run_keeps_the_savings_that_it_began_with(bare_folder, tmp_path, monkeypatch):
    def asked(**options):
        return salun_request(bare_folder, options=options, output_dir=tmp_path / "run").config

    roomy = asked()
    with monkeypatch.context() as cramped:
        cramped.setattr(plan, "free_bytes", lambda device: 1000)
        fitted = asked()
        RunDir(tmp_path / "run").claim(fitted)
    assert fitted.hash != roomy.hash and fitted.gradient_checkpointing

    # With room again the run is the same, whatever else is watched; another request is not.
    assert asked(log_every=3).hash == fitted.hash and asked(log_every=3).engine.log_every == 3
    for options in ({"gradient_checkpointing": False}, {"steps": 7}):
        with pytest.raises(UsageError, match=r"holds a run of another configuration"):
            asked(**options)


def test_the_default_folder_is_named_by_what_was_asked_for(bare_folder, monkeypatch):
    roomy = salun_request(bare_folder)
    monkeypatch.setattr(plan, "free_bytes", lambda device: 1000)
    cramped = salun_request(bare_folder)
    assert cramped.output_dir == roomy.output_dir and cramped.config.hash != roomy.config.hash


def test_a_sibling_that_is_retained_is_named_before_the_run():
    """ReaL labels: most images of a projectile show a missile."""
    names = ClassNames.imagenet()
    missile, projectile = names.resolve("657"), names.resolve("projectile")
    (sentence,) = plan.sibling_warnings(names, (missile,))
    assert sentence.startswith("83% of the images of projectile (744) also show missile") and "--also 744" in sentence
    assert plan.sibling_warnings(names, (missile, projectile)) == []
    assert plan.sibling_warnings(ClassNames(["three", "four"]), (0,)) == []


@pytest.mark.parametrize(("pixels", "size"), [(256, 32), (512, 64)])
def test_published_models_are_planned_offline(monkeypatch, pixels, size):
    """Weights: the 675,129,632 of the original code without its position table, whatever the image size; the VAE's."""
    monkeypatch.setattr(model_source, "published_folder", model_source.published_folder.__wrapped__)
    monkeypatch.setattr(model_source, "download", unreachable)
    model = f"facebook/DiT-XL-2-{pixels}"
    config = configure(model, ["golden retriever"], method="embedding_reset", data="replay")
    found = plan.count(config, None, CPU)
    assert (found["erase"], found["trainable_weights"]) == (["golden retriever"], 675_129_632 - 256 * 1152)
    assert plan.num_vae_weights(config) == 83_653_863
    assert model_source.transformer_config(model)["sample_size"] == size
    assert "planned    from the published architecture; the hub could not be reached\n" in plan.text(found)
    with pytest.raises(MissingError, match="cannot be reached"):
        model_source.check_model(model)


def unreachable(hub_id, *, flag, weights):
    """A hub that nobody answers for."""
    raise MissingError(f"{hub_id} cannot be reached")
