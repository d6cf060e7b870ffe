"""The bundle: exact round trips, ordinary diffusers folders, VAE units, and saves that fail."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from safetensors.torch import load_file

from pipelines.diffusion import Noised
from pipelines.errors import UsageError
from pipelines.model import DiT, load, save
from pipelines.model_source import load_classes, read_provenance
from pipelines.sampler import SamplerSettings, sample_latents

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_properties(tiny: DiT) -> None:
    assert (tiny.num_classes, tiny.null_class) == (10, 10)
    assert (tiny.latent_shape, tiny.image_size) == ((4, 4, 4), 16)
    assert tiny.id2label[7] == "seven" and tiny.device.type == "cpu"


def test_weights_come_back_exactly(tiny: DiT, saved: Path) -> None:
    loaded = load(saved)
    for part in ("transformer", "vae"):
        expected, found = getattr(tiny, part).state_dict(), getattr(loaded, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_everything_else_comes_back(tiny: DiT, saved: Path) -> None:
    loaded = load(saved)
    assert loaded.classes == tiny.classes
    assert (loaded.guided_channels, loaded.time_embedding) == (3, "diffusers")
    assert loaded.provenance == {"source": str(saved), **tiny.provenance}
    assert loaded.vae.config.scaling_factor == 0.3
    assert torch.equal(loaded.noise_schedule.tables["betas"], tiny.noise_schedule.tables["betas"])
    assert loaded.classifier_dir is None
    assert (saved / "README.md").read_text() == "# A card\n"


def test_loaded_network_trains_and_drops_no_labels(saved: Path, noised: Noised) -> None:
    """Eval mode, so that diffusers' own label dropout is off; gradients on the transformer only."""
    loaded = load(saved)
    assert not loaded.transformer.training and not loaded.vae.training
    assert all(parameter.requires_grad for parameter in loaded.transformer.parameters())
    assert not any(parameter.requires_grad for parameter in loaded.vae.parameters())
    first, *others = (
        loaded.predict(noised.noisy_latents, noised.timesteps, noised.class_labels).detach() for _ in range(8)
    )
    assert all(torch.equal(first, other) for other in others)


def test_other_schedules_and_time_embeddings_come_back(fresh: DiT, noised: Noised, tmp_path: Path) -> None:
    fresh.noise_schedule = type(fresh.noise_schedule)(100, beta_start=1e-3, beta_end=0.1)
    fresh.time_embedding = "original"
    loaded = load(save(fresh, tmp_path / "model"))
    schedule = loaded.noise_schedule
    assert (schedule.num_timesteps, schedule.beta_start, schedule.beta_end) == (100, 1e-3, 0.1)
    assert loaded.time_embedding == "original"
    other = load(tmp_path / "model", time_embedding="diffusers")
    outputs = [
        model.predict(noised.noisy_latents, noised.timesteps, noised.class_labels) for model in (loaded, other, fresh)
    ]
    assert torch.equal(outputs[1], outputs[2]) and not torch.equal(outputs[0], outputs[1])
    with pytest.raises(UsageError, match="original time embedding"):
        loaded.to_diffusers()


def test_classifier_travels_with_the_model(fresh: DiT, tmp_path: Path) -> None:
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier" / "config.json").write_text("{}")
    fresh.classifier_dir = tmp_path / "classifier"
    loaded = load(save(fresh, tmp_path / "model"))
    assert loaded.classifier_dir == tmp_path / "model" / "classifier"
    assert (loaded.classifier_dir / "config.json").read_text() == "{}"


def test_a_model_may_replace_its_own_folder(folder: Path) -> None:
    """A classifier that lies in the folder survives, and the second load is equal to the first."""
    (folder / "classifier").mkdir()
    (folder / "classifier" / "config.json").write_text("{}")
    first = load(folder)
    second = load(save(first, folder))
    assert (folder / "classifier" / "config.json").exists()
    assert torch.equal(first.transformer.proj_out_2.weight, second.transformer.proj_out_2.weight)


def test_half_precision_storage_loads_as_float32(tiny: DiT, tmp_path: Path) -> None:
    """Values are those of the cast, and saving does not change the model in memory."""
    before = copy.deepcopy(tiny.transformer.state_dict())
    loaded = load(save(tiny, tmp_path / "model", dtype=torch.float16))
    stored = load_file(tmp_path / "model" / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    for name, tensor in loaded.transformer.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name].half().float())
        assert torch.equal(tiny.transformer.state_dict()[name], before[name])
    assert loaded.vae.dtype == tiny.vae.dtype == torch.float32


@pytest.mark.parametrize("steps", [4, 20])
def test_diffusers_samples_the_same_images(tiny: DiT, saved: Path, steps: int) -> None:
    """``DiTPipeline`` opens the folder and gives our DDIM images at guidance 1, seed for seed."""
    pipeline = DiTPipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    labels, seeds = [3, 0, 9], [5, 6, 7]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    theirs = pipeline(labels, guidance_scale=1, generator=generators, num_inference_steps=steps, output_type="pt")[0]

    settings = SamplerSettings(sampler="ddim", num_inference_steps=steps)
    ours = tiny.decode(sample_latents(tiny, torch.tensor(labels), seeds, settings))
    difference = (theirs * 255 - ours).abs()
    assert ours.float().std() > 20 and difference.max() < 0.51


def test_id2label_is_in_the_folder(saved: Path) -> None:
    """In diffusers' form, and back as names without a weight being read."""
    index = json.loads((saved / "model_index.json").read_text())
    assert index["id2label"]["7"] == "seven" and index["_class_name"] == "DiTPipeline"
    assert load_classes(saved).labels[7] == "seven"


def test_provenance_is_read_without_weights(folder: Path, tiny: DiT) -> None:
    """Empty for a folder that does not say."""
    assert read_provenance(folder) == tiny.provenance
    (folder / "dit.json").unlink()
    assert read_provenance(folder) == {} and load(folder).provenance == {"source": str(folder)}


def test_without_id2label_classes_are_numbers(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index.pop("id2label")
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_classes(folder).labels == tuple(str(index) for index in range(10))


def test_in_memory_pipeline_is_the_model(fresh: DiT, noised: Noised) -> None:
    """The same output and shared weights; the model stays trainable."""
    pipeline = fresh.to_diffusers()
    arguments = (noised.noisy_latents, noised.timesteps, noised.class_labels)
    assert torch.equal(pipeline.transformer(*arguments).sample, fresh.predict(*arguments))
    assert pipeline.labels["seven"] == 7
    assert pipeline.transformer.proj_out_2.weight.data_ptr() == fresh.transformer.proj_out_2.weight.data_ptr()
    assert fresh.transformer.proj_out_2.weight.requires_grad


def test_encoding_is_in_units_of_the_diffusion(tiny: DiT) -> None:
    """Posterior mean and deviation of pixels in [-1, 1], times the scaling factor."""
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    posterior = tiny.vae.encode(images.float() * 2 / 255 - 1).latent_dist
    mean, std = tiny.encode(images)
    assert mean.shape == (2, *tiny.latent_shape) and (std > 0).all()
    torch.testing.assert_close(mean, 0.3 * posterior.mean)
    torch.testing.assert_close(std, 0.3 * (0.5 * posterior.logvar).exp())


def test_decoding_rounds_and_clamps(tiny: DiT) -> None:
    latents = torch.randn(2, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    pixels = (tiny.vae.decode(latents / 0.3).sample + 1) / 2 * 255
    images = tiny.decode(latents)
    assert images.dtype == torch.uint8 and (images == 0).any() and (images == 255).any()
    assert (images - pixels.clamp(0, 255)).abs().max() < 0.501


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_become_black(fresh: DiT, value: float) -> None:
    """One such pixel is enough; the other images of the batch are not touched."""
    latents = torch.randn(3, *fresh.latent_shape, generator=torch.Generator().manual_seed(0))
    expected = fresh.decode(latents)

    def spoil(module: torch.nn.Module, args: tuple, pixels: torch.Tensor) -> None:
        pixels[1, 2, 5, 7] = value

    fresh.vae.decoder.conv_out.register_forward_hook(spoil)
    images = fresh.decode(latents)
    assert images[1].max() == 0 and expected[1].max() > 0
    assert torch.equal(images[[0, 2]], expected[[0, 2]])


def test_run_directory_stands_for_its_model(folder: Path) -> None:
    assert load(folder.parent).provenance["source"] == str(folder.parent)


def test_a_save_that_fails_leaves_the_old_folder(fresh: DiT, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    fresh.classifier_dir = folder / "nowhere"
    with pytest.raises(FileNotFoundError):
        save(fresh, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
