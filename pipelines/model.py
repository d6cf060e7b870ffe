"""The bundle of a class-conditional DiT: transformer, VAE, noise schedule and class names; loading and saving it."""

import copy
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel
from torch import Tensor

from .classes import ClassNames
from .diffusion import NoiseSchedule
from .embedding import TimeEmbedding, tie_embedders, untied_state_dict
from .errors import MissingError, UsageError
from .files import check_weights, read_json, replace_folder, write_json
from .sampler import ddim_scheduler

EMBEDDED = {"digits": Path(__file__).parent / "digits"}
Network = TypeVar("Network", DiTTransformer2DModel, AutoencoderKL)
WEIGHT_FILES = ("*.safetensors", "*.bin")
SETTINGS_FILE = "dit.json"  # what diffusers' own files cannot hold: time embedding, guided channels, provenance


@dataclass(kw_only=True)
class DiT:
    """A class-conditional diffusion transformer over VAE latents (arXiv 2212.09748), ready to sample and train."""

    transformer: DiTTransformer2DModel  # embedders tied, always in eval mode
    vae: AutoencoderKL
    noise_schedule: NoiseSchedule
    classes: ClassNames
    time_embedding: TimeEmbedding = "diffusers"
    guided_channels: int = 4
    classifier_dir: Path | None = None  # classifier that ships with the model, if any
    provenance: dict[str, Any] = field(default_factory=dict)

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

    @property
    def image_size(self) -> int:
        """Height and width of a decoded image in pixels."""
        return self.transformer.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        """Where the transformer's weights are."""
        return self.transformer.device

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        """Raw network output (B, 2C, H, W): noise prediction, then variance prediction in [-1, 1] by training."""
        return self.transformer(noisy_latents, timestep=timesteps, class_labels=class_labels, return_dict=False)[0]

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, H, W) of the VAE posterior, in units of the diffusion (scaled)."""
        posterior = self.vae.encode(images.to(self.device).float() / 127.5 - 1).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images uint8 (B, 3, H, W); an image with a non-finite pixel becomes black, so that it is counted."""
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
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

    def to_diffusers(self) -> DiTPipeline:
        """An ordinary ``DiTPipeline`` with untied embedders and a DDIM scheduler.

        Raises ``UsageError`` for a model with the original time embedding, which diffusers would evaluate differently.
        """
        if self.time_embedding != "diffusers":
            raise UsageError("diffusers has no original time embedding: load this model with pipelines.model.load")
        return DiTPipeline(untied_copy(self.transformer), self.vae, ddim_scheduler(self.noise_schedule), self.id2label)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names in diffusers' form."""
        return dict(enumerate(self.classes.labels))


def untied_copy(transformer: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """The same network in diffusers' layout; weights are shared except for the copies of the embedder."""
    with torch.device("meta"):
        copied = DiTTransformer2DModel.from_config(transformer.config)
    copied.load_state_dict(untied_state_dict(transformer), assign=True)
    copied.pos_embed.pos_embed = transformer.pos_embed.pos_embed
    return copied.eval().requires_grad_(False)


def load(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    time_embedding: TimeEmbedding | None = None,
    keep_untied: bool = False,
) -> DiT:
    """Load ``"digits"``, a diffusers folder or a hub id in float32.

    Raises ``MissingError`` when weights are absent, truncated or not safetensors, ``UsageError`` when the folder holds
    something other than a DiT with learned variance.
    """
    folder = check_model(source)
    settings = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).exists() else {}
    time_embedding = time_embedding or settings.get("time_embedding", "diffusers")
    transformer = load_network(DiTTransformer2DModel, folder / "transformer")
    vae = load_network(AutoencoderKL, folder / "vae")
    tie_embedders(transformer, time_embedding=time_embedding, keep_untied=keep_untied)

    model = DiT(
        transformer=transformer.eval(),
        vae=vae.eval().requires_grad_(False),
        noise_schedule=load_noise_schedule(folder),
        classes=load_classes(folder),
        time_embedding=time_embedding,
        guided_channels=settings.get("guided_channels", 4),
        classifier_dir=folder / "classifier" if (folder / "classifier").is_dir() else None,
        provenance={"source": str(source), **settings.get("provenance", {})},
    )
    return model.to(device)


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


def check_model(source: str | Path) -> Path:
    """The local folder of a model whose configuration is a DiT's and whose weight files are whole; reads headers only.

    Raises what ``load`` raises.
    """
    folder = resolve_folder(source, weights=True)
    check_config(folder)
    for part in ("transformer", "vae"):
        check_weights(folder / part)
    return folder


def resolve_folder(source: str | Path, *, weights: bool = False) -> Path:
    """The local diffusers folder of a model: embedded, on disk, or downloaded from the hub (``MissingError``)."""
    if str(source) in EMBEDDED:
        return EMBEDDED[str(source)]
    path = Path(source)
    if (path / "model" / "model_index.json").exists():  # a run directory
        path = path / "model"
    if path.exists():
        if not (path / "model_index.json").exists():
            raise MissingError(f"{path} is not a model folder: it has no model_index.json")
        return path
    if len(path.parts) != 2 or path.is_absolute():
        names = ", ".join(EMBEDDED)
        raise MissingError(f"--model {source} is neither an embedded model ({names}), nor a folder, nor a hub id")
    return download(str(source), weights=weights)


def download(hub_id: str, *, weights: bool) -> Path:
    """Fetch a folder from the hub, or take it from the local cache (``MissingError``); weights only if asked."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.md", *(WEIGHT_FILES if weights else ())]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MissingError(
            f"--model {hub_id} is no local folder, and the hub cannot be reached for it ({reason}); offline, give "
            "--model digits or a local folder"
        ) from error


def read_transformer_config(source: str | Path) -> dict[str, Any]:
    """The transformer's configuration, without loading a weight."""
    return read_json(resolve_folder(source) / "transformer" / "config.json")


def read_provenance(source: str | Path) -> dict[str, Any]:
    """Where a model comes from, without loading a weight; empty when its folder does not say."""
    path = resolve_folder(source) / SETTINGS_FILE
    return read_json(path).get("provenance", {}) if path.exists() else {}


def check_config(folder: Path) -> None:
    """Refuse a folder whose transformer is not a DiT with learned variance (``UsageError``)."""
    config = read_json(folder / "transformer" / "config.json")
    if config.get("norm_type", "ada_norm_zero") != "ada_norm_zero":
        raise UsageError(
            f"{folder} holds a transformer with norm_type {config['norm_type']!r}; a DiT has ada_norm_zero"
        )
    if config.get("out_channels") != 2 * config.get("in_channels", 4):
        raise UsageError(
            f"{folder} predicts {config.get('out_channels')} channels for {config.get('in_channels', 4)} latent "
            "channels; a DiT with learned variance predicts twice as many"
        )


def load_noise_schedule(folder: Path) -> NoiseSchedule:
    """The training noise schedule from the folder's scheduler configuration; DiT's own where it says nothing."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path) if path.exists() else {}
    if config.get("beta_schedule", "linear") != "linear":
        raise UsageError(f"{path} has beta_schedule {config['beta_schedule']!r}; DiT is trained with 'linear'")
    return NoiseSchedule(
        config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 1e-4),
        beta_end=config.get("beta_end", 0.02),
    )


def load_classes(source: str | Path) -> ClassNames:
    """Class names of a model, without loading a weight; a folder without ``id2label`` names classes by index."""
    folder = resolve_folder(source)
    num_classes = read_json(folder / "transformer" / "config.json").get("num_embeds_ada_norm", 1000)
    labels = read_json(folder / "model_index.json").get("id2label") or {}
    return ClassNames([labels.get(str(index), str(index)) for index in range(num_classes)])


def save(model: DiT, folder: str | Path, *, card: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """Write an ordinary diffusers folder (safetensors, ``id2label``, a model card); it appears whole or not at all."""
    with replace_folder(Path(folder)) as target:
        transformer = untied_copy(model.transformer).to(dtype)
        transformer.save_pretrained(target / "transformer")
        copy.deepcopy(model.vae).to(dtype).save_pretrained(target / "vae")
        ddim_scheduler(model.noise_schedule).save_pretrained(target / "scheduler")
        if model.classifier_dir is not None:
            shutil.copytree(model.classifier_dir, target / "classifier")
        write_json(model_index(model), target / "model_index.json")
        write_json(model_settings(model), target / SETTINGS_FILE)
        if card:
            (target / "README.md").write_text(card)
    return Path(folder)


def model_index(model: DiT) -> dict[str, Any]:
    """diffusers' ``model_index.json`` with the class names that ``save_pretrained`` would drop."""
    from diffusers import __version__

    return {
        "_class_name": "DiTPipeline",
        "_diffusers_version": __version__,
        "id2label": {str(index): label for index, label in model.id2label.items()},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def model_settings(model: DiT) -> dict[str, Any]:
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
