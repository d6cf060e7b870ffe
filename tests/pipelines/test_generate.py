"""Bulk generation: request order, independence of batches, damaged images, nothing to do."""

import pytest
import torch

from pipelines.generate import generate, generate_all
from pipelines.model import DiT
from pipelines.sampler import SAMPLERS, SamplerSettings, sample_latents

REQUESTS = [(3, 11), (0, 12), (9, 13), (3, 14), (10, 11), (3, 11), (1, 2**40)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_do_not_depend_on_batch_or_order(tiny: DiT, sampler: str) -> None:
    """Grey levels agree up to rounding for batches of 1, 3 and 7, and when the list is reversed."""
    settings = SamplerSettings(sampler=sampler, num_inference_steps=5, guidance_scale=1.5)
    expected = generate_all(tiny, REQUESTS, settings, batch_size=7).int()
    for size in (1, 3):
        assert (generate_all(tiny, REQUESTS, settings, batch_size=size) - expected).abs().max() <= 1
    assert (generate_all(tiny, REQUESTS[::-1], settings).flip(0) - expected).abs().max() <= 1
    assert expected.shape == (7, 3, 16, 16)


def test_an_image_is_its_label_and_seed(tiny: DiT) -> None:
    """Equal requests give equal images; another label or another seed gives another."""
    images = generate_all(tiny, REQUESTS, SamplerSettings(sampler="ddim", num_inference_steps=5)).float()
    distance = torch.cdist(images.flatten(1), images.flatten(1)) / 768**0.5
    assert distance[0, 5] == 0
    others = distance[0, [1, 2, 3, 4, 6]]
    assert others.min() > 2


def test_batches_come_in_request_order(tiny: DiT) -> None:
    batches = list(generate(tiny, REQUESTS, SamplerSettings(num_inference_steps=2), batch_size=3))
    assert [len(images) for images, _ in batches] == [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [label for label, _ in REQUESTS]
    assert batches[0][0].dtype == torch.uint8 and batches[0][0].device.type == "cpu"


def test_images_are_the_decoded_latents(tiny: DiT) -> None:
    settings = SamplerSettings(num_inference_steps=4, guidance_scale=2.0, guided_channels=3)
    labels, seeds = zip(*REQUESTS, strict=True)
    expected = tiny.decode(sample_latents(tiny, torch.tensor(labels), seeds, settings))
    assert torch.equal(generate_all(tiny, REQUESTS, settings), expected)


def test_the_decoder_has_a_precision_of_its_own(tiny: DiT) -> None:
    settings = SamplerSettings(num_inference_steps=4, decoder_precision="bf16")
    labels, seeds = zip(*REQUESTS, strict=True)
    latents = sample_latents(tiny, torch.tensor(labels), seeds, settings)
    found, exact = generate_all(tiny, REQUESTS, settings), tiny.decode(latents)
    assert torch.equal(found, tiny.decode(latents, precision="bf16"))
    assert 0 < (found.float() - exact.float()).abs().mean() < 2


def test_a_diverged_label_gives_black_images(fresh: DiT) -> None:
    """A row of the label table that is not finite: its images are black and counted, the others are as before."""
    settings = SamplerSettings(num_inference_steps=4)
    before = generate_all(fresh, REQUESTS, settings)
    table = fresh.transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    table.data[3] = torch.nan
    after = generate_all(fresh, REQUESTS, settings)
    black = after.flatten(1).amax(1) == 0
    assert black.tolist() == [label == 3 for label, _ in REQUESTS]
    assert torch.equal(after[~black], before[~black])


def test_no_requests(tiny: DiT) -> None:
    images = generate_all(tiny, [], SamplerSettings())
    assert images.shape == (0, 3, 16, 16) and images.dtype == torch.uint8
