"""The model card: what it says before a score, after scoring, after a probe, and how the folder is loaded."""

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiTPipeline

from erase.api import run
from erase.api.probing import probe
from erase.card import licence_of, model_card
from eval.card_sections import protocol_words
from eval.probe import AMOUNTS
from eval.protocol import named
from pipelines.files import read_json
from pipelines.model import load, save
from pipelines.sampler import SamplerSettings, sample_latents

QUICK = {"steps": 2, "forget_batch_size": 8, "retain_batch_size": 8}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
DIT = "facebook/DiT-XL-2-256"


@pytest.fixture
def erase(judged_model, pictures, tmp_path, erase_cache, monkeypatch):
    """``erase(protocol=...)``: a run that erases three from the tiny model."""
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))

    def make(model=judged_model, **asked):
        asked = {"protocol": "none", "method": "gradient_ascent", "options": QUICK, "data": pictures, **asked}
        return run(model, "three", output_dir=tmp_path / "run", progress=False, **asked)

    return make


def card_of(folder: Path) -> str:
    """The card of a run."""
    return (folder / "model" / "README.md").read_text()


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_unscored_card_says_what_was_done_and_that_nothing_was_measured(erase, judged_model, pictures):
    folder = erase().run_dir
    card, base = card_of(folder), Path(judged_model)
    assert card.startswith("---\n") and yaml.safe_load(card.split("---")[1])["library_name"] == "diffusers"
    assert "base_model" not in card.split("---")[1]  # a folder is no model of the hub
    for words in (
        "# model without three",
        "| three | 3 |  | `gradient_ascent`, dual optimizers, 2 steps |",
        f"| base model | {judged_model}, `{WEIGHTS}` sha256 `{digest(base / WEIGHTS)}` |",
        f"`{WEIGHTS}` sha256 `{digest(folder / 'model' / WEIGHTS)}`",
        f"| data | {pictures} |",
        "| seed | 0, of every random draw",
        "| device | cpu |",
        "not stated by the base model",
        "diffusers 0.",
        "DiTPipeline.from_pretrained(folder)",
        "None: nothing here says how well the erasure worked",
        "## What this does not guarantee",
        "forget_classes:\n- 3\n",
    ):
        assert words in card, words
    assert re.search(r"\| date \| \d{4}-\d\d-\d\d \|", card)
    assert read_json(folder / "model" / "model_index.json")["id2label"]["3"] == "three (erased)"


def test_a_card_is_completed_by_scoring_and_by_probing(
    erase, pictures, short_protocol, few_images, tmp_path, monkeypatch
):
    erase()
    scored = erase(protocol=short_protocol, reference=pictures, neighbours=["five", 9])
    card, record = card_of(scored.run_dir), scored.scores
    assert "nothing here says" not in card and "No attack but the row put back was run" in card
    before, after = (record[model]["forget_accuracy"] for model in ("original", "erased"))
    assert f"| Forget accuracy | lower | {100 * before['value']:.1f} % (" in card
    assert f" | {100 * after['value']:.1f} % (" in card
    for words in (
        "| Retain accuracy | higher |", "| Neighbour accuracy | higher |", "| Frechet distance (",
        "| Forget accuracy, original label row put back | lower |", "Neighbours: five and nine.",
        "Protocol `small`: dpm-solver++ in 2 steps, no guidance; 4 images of each erased class and 18 of all others",
        "In brackets the 95 % interval",
    ):  # fmt: skip
        assert words in card, words
    assert record["neighbours"] == [5, 9] and record["asked"]["neighbours"] == [5, 9]

    # Nothing is scored again for the same panel; an attack adds its row, and the card stays whole.
    monkeypatch.setattr("erase.api.scoring.score_models", None)
    assert erase(protocol=short_protocol, reference=pictures, neighbours=[5, 9]).repeated
    short = dataclasses.replace(AMOUNTS["quick"], retained_images=6)
    monkeypatch.setitem(AMOUNTS, "quick", short)
    probe(scored.run_dir, probes=["unconditional_mass"], progress=False)
    probed = card_of(scored.run_dir)
    assert "## Attacks" in probed and "| attack | verdict | original |" in probed
    assert "Budget of the attacks: quick." in probed and "| Retain accuracy | higher |" in probed
    assert [path.name for path in (tmp_path / "run" / "model").iterdir() if path.name.startswith(".")] == []


def test_the_card_of_a_second_erasure_shows_the_chain(erase, pictures, tmp_path):
    first = erase()
    second = run(
        str(first.run_dir), "eight", method="embedding_reset", data=pictures, protocol="none",
        output_dir=tmp_path / "second", progress=False,
    )  # fmt: skip
    card = card_of(second.run_dir)
    assert "# model without three and eight" in card
    rows = [line for line in card.splitlines() if line.startswith(("| three", "| eight"))]
    assert [row.split(" | ")[1] for row in rows] == ["3", "8"]
    assert "| `gradient_ascent`" in rows[0] and f"| `embedding_reset` | {first.run_dir} |" in rows[1]
    assert (
        f"| erased from | {first.run_dir}, `{WEIGHTS}` sha256 `{digest(first.run_dir / 'model' / WEIGHTS)}` |" in card
    )


def test_the_saved_run_samples_alike_in_diffusers(erase):
    """``DiTPipeline`` opens the folder and gives our DDIM images at guidance 1, seed for seed."""
    result = erase()
    pipeline = DiTPipeline.from_pretrained(result.run_dir / "model")
    pipeline.set_progress_bar_config(disable=True)
    labels, seeds = [3, 0, 9], [5, 6, 7]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    theirs = pipeline(labels, guidance_scale=1, generator=generators, num_inference_steps=8, output_type="pt")[0]
    settings = SamplerSettings(sampler="ddim", num_inference_steps=8)
    for model in (result.model, load(result.run_dir)):
        ours = model.decode(sample_latents(model, torch.tensor(labels), seeds, settings))
        assert (theirs * 255 - ours).abs().max() < 0.51
    assert pipeline.labels["three (erased)"] == 3


def test_a_model_with_the_original_time_embedding_says_how_to_load_it(erase, judged_model):
    result = erase(options={**QUICK, "time_embedding": "original"})
    card = card_of(result.run_dir)
    assert "keeps the original time embedding" in card and "from pipelines.model import load" in card
    assert "DiTPipeline.from_pretrained" not in card
    assert load(result.run_dir).time_embedding == "original"


@pytest.mark.parametrize(
    ("provenance", "licence"),
    [
        ({"source": DIT}, "cc-by-nc-4.0"),
        ({"source": "/models/DiT-XL-2-512x512.pt"}, "cc-by-nc-4.0"),
        ({"source": "digits"}, ""),
        ({"source": "mine", "licence": "mit"}, "mit"),
    ],
)
def test_the_licence_travels_through_every_erasure(provenance, licence):
    assert licence_of(provenance) == licence
    once = {"erased": {"model": "base"}, "original": provenance}
    twice = {"erased": {"model": "runs/a"}, "original": {"source": "runs/a", **once}}
    assert licence_of(once) == licence_of(twice) == licence


def test_a_base_model_of_the_hub_is_named_to_the_hub(erase, loaded_dit, tmp_path):
    erased = erase()
    made = erased.model.provenance
    base = {"source": DIT, "revision": {"commit": "0123abcd"}}
    model = load(erased.run_dir)
    model.provenance = {**made, "original": base}
    card = (save(model, tmp_path / "hub", card=model_card) / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["base_model"], header["license"]) == (DIT, "cc-by-nc-4.0")
    assert f"# {DIT} without three" in card and f"{DIT}, commit `0123abcd`" in card
    assert "CC BY-NC 4.0, which travels with every copy" in card


def test_a_card_says_how_images_are_guided():
    guided = dataclasses.replace(named("quick"), guidance_start=0.2, guidance_end=0.8)
    record = {"protocol": guided.to_dict(), "reference": {"description": "real images"}}
    said = "ddim in 50 steps, guidance 1.5 on 3 channels from 20 % to 80 % of the steps; 500 images"
    assert said in protocol_words(record)
    record["protocol"] = named("quick").to_dict()
    assert "guidance 1.5 on 3 channels; 500 images" in protocol_words(record)
