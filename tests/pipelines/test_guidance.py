"""Guidance: by channel, in an interval of the steps, at the scale 0, and what the network is asked for."""

from dataclasses import replace

import pytest
import torch

from pipelines.errors import UsageError
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings, denoise, guided_output, noise_generators, sample_latents

LABELS, SEEDS = [3, 0, 9, 3, 7, 1, 5], [11, 12, 13, 14, 15, 16, 17]


@pytest.mark.parametrize("guided_channels", [3, 4])
def test_guidance_by_channel(tiny: DiT, guided_channels: int) -> None:
    """The first channels move away from the unconditional branch; the rest are the conditional one's, bit for bit."""
    latents = torch.randn(2, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    labels, timesteps = torch.tensor([3, 8]), torch.full((2,), 400)
    settings = SamplerSettings(guidance_scale=4.0, guided_channels=guided_channels)
    with torch.no_grad():
        output = guided_output(tiny, latents, torch.tensor(400), labels, settings)
        conditional, null = (
            tiny.predict(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), torch.cat([labels, torch.full((2,), 10)]))
        ).chunk(2)
    expected = null + 4 * (conditional - null)
    torch.testing.assert_close(output[:, :guided_channels], expected[:, :guided_channels])
    assert torch.equal(output[:, guided_channels:], conditional[:, guided_channels:])
    assert (expected - conditional).abs().amax((0, 2, 3)).min() > 0.1


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"guidance_scale": 1.0}, [1, 1, 1, 1, 1]),
        ({"guidance_scale": 1.5}, [2, 2, 2, 2, 2]),
        ({"guidance_scale": 0.0}, [2, 2, 2, 2, 2]),
        ({"guidance_scale": 1.5, "guidance_start": 0.2, "guidance_end": 0.6}, [1, 2, 2, 1, 1]),
        ({"guidance_scale": 1.5, "guidance_start": 0.8}, [1, 1, 1, 1, 2]),
        ({"guidance_scale": 1.5, "guidance_start": 0.49, "guidance_end": 0.51}, [1, 1, 2, 1, 1]),
    ],
)
def test_network_rows(fresh: DiT, changes: dict, rows: list[int]) -> None:
    """A step without guidance asks the network for one row of an image, a guided one for two."""
    seen = []
    fresh.transformer.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    settings = SamplerSettings(num_inference_steps=5, **changes)
    sample_latents(fresh, torch.tensor(LABELS), SEEDS, settings)
    assert seen == [each * len(SEEDS) for each in rows]
    assert [settings.network_rows(first=step) for step in range(5)] == [sum(rows[step:]) for step in range(5)]


def test_guidance_in_an_interval_is_the_rest_without(tiny: DiT) -> None:
    """Guided steps, then plain ones from where they ended."""
    labels, deterministic = torch.tensor(LABELS), {"sampler": "ddim", "num_inference_steps": 5}
    guided = SamplerSettings(guidance_scale=3.0, **deterministic)
    begun = sample_latents(tiny, labels, SEEDS, guided, last=2)
    expected = denoise(tiny, begun, labels, noise_generators(SEEDS), SamplerSettings(**deterministic), first=2)
    found = sample_latents(tiny, labels, SEEDS, replace(guided, guidance_end=0.4))
    torch.testing.assert_close(found, expected)
    assert (found - sample_latents(tiny, labels, SEEDS, guided)).norm() > 0.01 * found.norm()


def test_guidance_zero_is_the_null_class(tiny: DiT) -> None:
    unguided = SamplerSettings(sampler="ddim", num_inference_steps=4)
    null = sample_latents(tiny, torch.full((3,), tiny.null_class), SEEDS[:3], unguided)
    settings = SamplerSettings(sampler="ddim", num_inference_steps=4, guidance_scale=0.0)
    found = sample_latents(tiny, torch.tensor(LABELS[:3]), SEEDS[:3], settings)
    assert (found - null).abs().max() < 1e-5 * null.abs().max()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance_start": 0.6, "guidance_end": 0.6}, "--guidance-start 0.6 and --guidance-end 0.6 must be shares"),
        ({"guidance_end": 1.1}, "--guidance-start 0 and --guidance-end 1.1 must be shares"),
        ({"guidance_end": 0.5, "guidance_scale": 1.0}, "have no effect with --guidance-scale 1"),
        ({"guidance_start": 0.5, "guidance_end": 0.51}, "--guidance-start 0.5 and --guidance-end 0.51 hold none of 20"),
    ],
)
def test_an_interval_that_guides_nothing_is_refused(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplerSettings(**{"guidance_scale": 4.0, **values})
