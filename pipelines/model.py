"""The bundle of a class-conditional DiT: transformer, VAE, noise schedule and class names; loading and saving it."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from .classes import ClassNames
from .diffusion import NoiseSchedule
from .embedding import TimeEmbedding, tie_embedders, untied_state_dict
from .errors import MissingError, UsageError
from .files import replace_folder, write_json
from .model_source import (
    CARD_FILE,
    SETTINGS_FILE,
    check_model,
    classifier_dir,
    load_classes,
    load_noise_schedule,
    model_settings,
    original_path,
    resolve_folder,
    vae_dir,
)
from .original import original_config, read_original, to_diffusers
from .provenance import erased_classes, marked
from .sampler import ddim_scheduler

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

PIXELS_AT_ONCE = 2**21  # through the VAE, 32 images of 256 x 256: its activations are the largest there are
Network = TypeVar("Network", "DiTTransformer2DModel", "AutoencoderKL")


@dataclass(kw_only=True)
class DiT:
    """A class-conditional diffusion transformer over VAE latents (arXiv 2212.09748), ready to sample and train."""

    transformer: "DiTTransformer2DModel"  # embedders tied, always in eval mode
    vae: "AutoencoderKL"
    noise_schedule: NoiseSchedule
    classes: ClassNames
    time_embedding: TimeEmbedding = "diffusers"
    guided_channels: int = 4
    classifier_dir: Path | None = None  # classifier that ships with the model, if any
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line, where the fields would fill pages."""
        weights = sum(each.numel() for each in self.transformer.parameters())
        return f"DiT({weights:,} weights, {self.num_classes} classes, {self.image_size} px, on {self.device})"

    @property
    def num_classes(self) -> int:
        """Classes without the null class."""
        return self.transformer.config.num_embeds_ada_norm

    @property
    def null_class(self) -> int:
        """The label that means "no class": the last row of the label table."""
        return self.num_classes

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one latent."""
        config = self.transformer.config
        return (config.in_channels, config.sample_size, config.sample_size)

    def behaviour(self) -> dict[str, Any]:
        """What the network's outputs depend on beside its weights, as plain JSON types: part of every cache key."""
        schedule = self.noise_schedule
        return {
            "time_embedding": self.time_embedding,
            "noise_schedule": [schedule.num_timesteps, schedule.beta_start, schedule.beta_end],
        }

    @property
    def image_size(self) -> int:
        """Height and width of a decoded image in pixels."""
        return self.transformer.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def images_at_once(self) -> int:
        """How many images the VAE takes in one piece."""
        return max(1, PIXELS_AT_ONCE // self.image_size**2)

    @property
    def device(self) -> torch.device:
        """Where the transformer's weights are."""
        return next(self.transformer.parameters()).device  # diffusers' own property looks at every module

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        """Raw network output (B, 2C, H, W): noise prediction, then variance prediction in [-1, 1] by training."""
        return self.transformer(noisy_latents, timestep=timesteps, class_labels=class_labels, return_dict=False)[0]

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, H, W) of the VAE posterior, in units of the diffusion (scaled)."""
        scale, parts = self.vae.config.scaling_factor, []
        for chunk in images.split(self.images_at_once):
            posterior = self.vae.encode(chunk.to(self.device).float() / 127.5 - 1).latent_dist
            parts.append((posterior.mean * scale, posterior.std * scale))
        mean, std = map(torch.cat, zip(*parts, strict=True))
        return mean, std

    @torch.no_grad()
    def decode(self, latents: Tensor, *, precision: Literal["fp32", "bf16"] = "fp32") -> Tensor:
        """Images uint8 (B, 3, H, W); an image with a non-finite pixel becomes black, so that it is counted."""
        # Convolutions are faster on channels that lie together, and pass that layout on.
        scaled = (latents / self.vae.config.scaling_factor).to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            pixels = torch.cat([self.vae.decode(chunk).sample.float() for chunk in scaled.split(self.images_at_once)])
        finite = pixels.isfinite().flatten(1).all(1)[:, None, None, None]
        return torch.where(finite, ((pixels + 1) * 127.5).round().clamp(0, 255), 0).to(torch.uint8)

    def to(self, device: torch.device | str) -> "DiT":
        """Move every part to a device, in place."""
        self.transformer.to(device)
        self.vae.to(device)
        self.noise_schedule.to(device)
        return self

    def frozen_copy(self) -> "DiT":
        """A reference model: its own transformer weights without gradients, everything else shared."""
        transformer = copy.deepcopy(self.transformer).requires_grad_(False)
        return DiT(**{**vars(self), "transformer": transformer})

    def to_diffusers(self) -> "DiTPipeline":
        """An ordinary ``DiTPipeline`` with untied embedders and a DDIM scheduler.

        Raises ``UsageError`` for a model with the original time embedding, which diffusers would evaluate differently.
        """
        from diffusers import DiTPipeline

        if self.time_embedding != "diffusers":
            raise UsageError("diffusers has no original time embedding: load this model with pipelines.model.load")
        scheduler = ddim_scheduler(self.noise_schedule)
        return DiTPipeline(untied_copy(self.transformer), self.vae, scheduler, self.marked_id2label)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names in diffusers' form."""
        return dict(enumerate(self.classes.labels))

    @property
    def marked_id2label(self) -> dict[int, str]:
        """The same for those who open the model with diffusers: an erased class says that it is."""
        return dict(enumerate(marked(self.classes.labels, erased_classes(self.provenance))))


def untied_copy(transformer: "DiTTransformer2DModel") -> "DiTTransformer2DModel":
    """The same network in diffusers' layout; weights are shared except for the copies of the embedder."""
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        copied = DiTTransformer2DModel.from_config(transformer.config)
    copied.load_state_dict(untied_state_dict(transformer), assign=True)
    copied.pos_embed.pos_embed = transformer.pos_embed.pos_embed
    return copied.eval().requires_grad_(False)


def load(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    vae: str = "",
    time_embedding: TimeEmbedding | None = None,
    keep_untied: bool = False,
) -> DiT:
    """Load ``"digits"``, a run, a diffusers folder, a hub id or an original checkpoint in float32.

    ``vae`` is the VAE of an original checkpoint, a folder or hub id. Raises ``MissingError`` when weights are absent,
    truncated or not weights, ``UsageError`` when they are something other than a DiT with learned variance.
    """
    from diffusers import AutoencoderKL

    check_model(source, vae=vae)
    settings = model_settings(source)
    time_embedding = time_embedding or settings.get("time_embedding", "diffusers")
    transformer = load_transformer(source)
    tie_embedders(transformer, time_embedding=time_embedding, keep_untied=keep_untied)

    model = DiT(
        transformer=transformer.eval(),
        vae=load_network(AutoencoderKL, vae_dir(source, vae)).eval().requires_grad_(False),
        noise_schedule=load_noise_schedule(source),
        classes=load_classes(source),
        time_embedding=time_embedding,
        guided_channels=settings.get("guided_channels", 4),
        classifier_dir=classifier_dir(source),
        provenance={"source": str(source), **settings.get("provenance", {})},
    )
    return model.to(device)


def load_transformer(source: str | Path) -> "DiTTransformer2DModel":
    """The transformer of a model in diffusers' layout and in float32, its embedders not yet tied."""
    from diffusers import DiTTransformer2DModel

    path = original_path(source)
    if path is None:
        return load_network(DiTTransformer2DModel, resolve_folder(source) / "transformer")
    transformer = DiTTransformer2DModel.from_config(original_config(path))
    state = {name: tensor.float() for name, tensor in to_diffusers(read_original(path)).items()}
    missing, unexpected = transformer.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise UsageError(
            f"{path} is no checkpoint of the original DiT code: it lacks {len(missing)} weights and has "
            f"{len(unexpected)} others, such as {[*missing, *unexpected][0]}"
        )
    return transformer


def load_network(kind: type[Network], folder: Path) -> Network:
    """One network of a folder in float32; ``MissingError`` when its weights cannot be read or do not fill it."""
    try:
        network, report = kind.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MissingError(f"the weights in {folder} cannot be loaded: {reason}") from error
    if missing := report["missing_keys"]:
        raise MissingError(f"the weights in {folder} lack {len(missing)} tensors of the network, such as {missing[0]}")
    return network


def save(
    model: DiT,
    folder: str | Path,
    *,
    card: Callable[[Path], str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write an ordinary diffusers folder (safetensors, ``id2label``, a model card); it appears whole or not at all.

    ``card`` makes the text of the model card from the folder with everything else in it.
    """
    with replace_folder(Path(folder)) as target:
        transformer = in_dtype(untied_copy(model.transformer), dtype)
        transformer.save_pretrained(target / "transformer")
        in_dtype(copy.deepcopy(model.vae), dtype).save_pretrained(target / "vae")
        ddim_scheduler(model.noise_schedule).save_pretrained(target / "scheduler")
        if model.classifier_dir is not None:
            shutil.copytree(model.classifier_dir, target / "classifier")
        write_json(model_index(model), target / "model_index.json")
        write_json(settings_of(model), target / SETTINGS_FILE)
        if card is not None:
            (target / CARD_FILE).write_text(card(target))
    return Path(folder)


def in_dtype(network: Network, dtype: torch.dtype) -> Network:
    """The network with weights of a type; diffusers warns of a cast even where there is none."""
    return network if network.dtype == dtype else network.to(dtype)


def model_index(model: DiT) -> dict[str, Any]:
    """diffusers' ``model_index.json`` with the class names that ``save_pretrained`` would drop."""
    from diffusers import __version__

    return {
        "_class_name": "DiTPipeline",
        "_diffusers_version": __version__,
        "id2label": {str(index): label for index, label in model.marked_id2label.items()},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def settings_of(model: DiT) -> dict[str, Any]:
    """What diffusers' own files cannot hold."""
    return json.loads(
        json.dumps(
            {
                "time_embedding": model.time_embedding,
                "guided_channels": model.guided_channels,
                "provenance": model.provenance,
            }
        )
    )
