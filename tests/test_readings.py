"""Readings of a published size: real work on a shallow network, counted as the plan counts it."""

import json

import pytest
import torch

from benchmarks.speed import readings
from benchmarks.speed.models import random_dit
from erase.api.plan import forward_flops

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shallow():
    """One block of DiT-S/2."""
    return random_dit("DiT-S/2", CPU, num_layers=1)


def test_a_product_and_a_fisher_are_counted(shallow):
    product, fisher = readings.product(CPU, 64), readings.fisher(shallow, 2)
    assert product.tflop == pytest.approx(2 * 64**3 / 1e12)
    assert fisher.tflop == pytest.approx(3 * 4 * forward_flops(shallow.transformer) / 1e12)
    assert fisher.what == "Fisher of 2 + 2 images" and min(product.seconds, fisher.seconds) > 0


def test_an_erasure_trains_the_model(shallow):
    before = shallow.transformer.proj_out_2.weight.detach().clone()
    found = readings.erasure(shallow, readings.PLAIN, 1)
    assert found.what == "one class by gradient_ascent, 1 steps of 16 images" and found.seconds > 0
    assert not torch.equal(shallow.transformer.proj_out_2.weight, before)


def test_the_vae_is_the_published_one():
    vae = readings.published_vae(CPU)
    assert sum(each.numel() for each in vae.parameters()) == 83_653_863  # of stabilityai/sd-vae-ft-mse
    assert vae.decode(torch.zeros(1, 4, 4, 4)).sample.shape == (1, 3, 32, 32)


def test_rates_are_shares_of_the_product_s():
    found = readings.as_records(
        [
            readings.Reading(what="product", seconds=2.0, tflop=8.0),
            readings.Reading(what="step", seconds=1.0, tflop=1.0, aim="much"),
            readings.Reading(what="erasure", seconds=60.0),
        ]
    )
    assert [each["share"] for each in found] == [1.0, 0.25, None] and json.loads(json.dumps(found)) == found
    assert readings.lines(found)[1:] == ["step: 1 s, 1 TFLOP/s (25%) (aim: much)", "erasure: 60 s"]
