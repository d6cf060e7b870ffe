"""What a model's files say without its weights: where they are, whether they are whole, class names, noise schedule.

A model is named by the embedded ``digits``, a run directory, a diffusers folder, a hub id, or a file: a checkpoint of
the original DiT code, which takes its VAE from elsewhere.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .classes import ClassNames
from .companion import SUFFIXES, read_companion
from .errors import MissingError, UsageError
from .files import check_weights, read_json
from .imagenet import NUM_CLASSES
from .provenance import erased_classes, unmarked

if TYPE_CHECKING:
    from .diffusion import NoiseSchedule

EMBEDDED = {"digits": Path(__file__).parent / "digits"}
PUBLISHED = {  # models of ImageNet's classes whose configurations are known offline
    f"facebook/{folder.name}": folder for folder in sorted((Path(__file__).parent / "published").iterdir())
}
ORIGINAL_VAE = "stabilityai/sd-vae-ft-ema"  # the decoder of the published samples
CARD_FILE = "README.md"
WEIGHT_FILES = ("*.safetensors", "*.bin")
SETTINGS_FILE = "dit.json"  # what diffusers' own files cannot hold: time embedding, guided channels, provenance


def original_path(source: str | Path) -> Path | None:
    """The file of an original checkpoint; None for every other kind of model (``MissingError`` if it is not there)."""
    path = Path(source)
    if path.suffix not in SUFFIXES or path.is_dir():
        return None
    if not path.exists():
        raise MissingError(f"--model {source} does not exist")
    return path


def check_model(source: str | Path, *, vae: str = "") -> None:
    """Hold a model to a DiT's configuration and to whole weight files, reading headers only; raises as ``load``."""
    check_config(source)
    if original_path(source) is None:
        check_weights(resolve_folder(source, weights=True) / "transformer")
    check_weights(vae_dir(source, vae, weights=True))


def resolve_folder(source: str | Path, *, weights: bool = False, flag: str = "--model") -> Path:
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
        raise MissingError(f"{flag} {source} is neither an embedded model ({names}), nor a folder, nor a hub id")
    if str(source) in PUBLISHED and not weights:
        return published_folder(str(source))
    folder = download(str(source), flag=flag, weights=weights)
    published_folder.cache_clear()  # the hub was reached
    return folder


@cache
def published_folder(hub_id: str) -> Path:
    """Configurations of a published model: the hub's or, where it cannot be reached, those that ship with the tool."""
    try:
        return download(hub_id, flag="--model", weights=False)
    except MissingError:
        return PUBLISHED[hub_id]


def is_known_offline_only(source: str | Path) -> bool:
    """Whether a model's configurations are those that ship here because the hub could not be reached."""
    return str(source) in PUBLISHED and resolve_folder(source) == PUBLISHED[str(source)]


def download(hub_id: str, *, flag: str, weights: bool) -> Path:
    """Fetch a folder from the hub, or take it from the local cache (``MissingError``); weights only if asked."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.md", *(WEIGHT_FILES if weights else ())]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MissingError(
            f"{flag} {hub_id} is no local folder, and the hub cannot be reached for it ({reason}); offline, give "
            "a local folder" + (" or --model digits" if flag == "--model" else "")
        ) from error


def vae_dir(source: str | Path, vae: str = "", *, weights: bool = False) -> Path:
    """The folder of a model's VAE: its own, or for an original checkpoint ``vae``, a folder or hub id.

    Raises ``UsageError`` when a VAE is named for a model that has one, ``MissingError`` when it is not there.
    """
    if original_path(source) is None:
        if vae:
            raise UsageError(f"--vae {vae} has no effect: {source} has a VAE of its own")
        return resolve_folder(source, weights=weights) / "vae"
    name = vae or ORIGINAL_VAE
    folder = Path(name) if Path(name).is_dir() else download(name, flag="--vae", weights=weights)
    return folder if (folder / "config.json").exists() else folder / "vae"


def classifier_dir(source: str | Path) -> Path | None:
    """The folder of the classifier that ships with a model, if any."""
    if original_path(source) is not None:
        return None
    folder = resolve_folder(source) / "classifier"
    return folder if (folder / "config.json").exists() else None


def transformer_config(source: str | Path) -> dict[str, Any]:
    """The configuration of diffusers' transformer."""
    path = original_path(source)
    if path is None:
        return read_json(resolve_folder(source) / "transformer" / "config.json")
    from .original import original_config

    return original_config(path)


def model_settings(source: str | Path) -> dict[str, Any]:
    """Time embedding, guided channels and provenance; the original code's where it wrote the checkpoint."""
    if (path := original_path(source)) is not None:
        known = {"provenance": read_companion(path).get("provenance", {})}
        return {"time_embedding": "original", "guided_channels": 3, **known}
    path = resolve_folder(source) / SETTINGS_FILE
    return read_json(path) if path.exists() else {}


def read_provenance(source: str | Path) -> dict[str, Any]:
    """Where a model comes from; empty when its files do not say."""
    return model_settings(source).get("provenance", {})


def check_config(source: str | Path) -> None:
    """Refuse a model whose transformer is not a DiT with learned variance (``UsageError``)."""
    config = transformer_config(source)
    if config.get("norm_type", "ada_norm_zero") != "ada_norm_zero":
        raise UsageError(
            f"{source} holds a transformer with norm_type {config['norm_type']!r}; a DiT has ada_norm_zero"
        )
    if config.get("out_channels") != 2 * config.get("in_channels", 4):
        raise UsageError(
            f"{source} predicts {config.get('out_channels')} channels for {config.get('in_channels', 4)} latent "
            "channels; a DiT with learned variance predicts twice as many"
        )


def load_noise_schedule(source: str | Path) -> "NoiseSchedule":
    """The training noise schedule from the folder's scheduler configuration; DiT's own where nothing says another."""
    from .diffusion import NoiseSchedule

    if original_path(source) is not None:
        return NoiseSchedule()
    path = resolve_folder(source) / "scheduler" / "scheduler_config.json"
    config = read_json(path) if path.exists() else {}
    if config.get("beta_schedule", "linear") != "linear":
        raise UsageError(f"{path} has beta_schedule {config['beta_schedule']!r}; DiT is trained with 'linear'")
    return NoiseSchedule(
        config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 1e-4),
        beta_end=config.get("beta_end", 0.02),
    )


def load_classes(source: str | Path) -> ClassNames:
    """Class names of a model: its own, ImageNet's for an original checkpoint of 1,000 classes, else indices.

    The published ImageNet models need no network for this. An erased class has the name that it always had.
    """
    num_classes = transformer_config(source).get("num_embeds_ada_norm", NUM_CLASSES)
    path = original_path(source)
    index = read_json(resolve_folder(source) / "model_index.json") if path is None else read_companion(path)
    labels = index.get("id2label") or {}
    imagenet = str(source) in PUBLISHED or (path is not None and num_classes == NUM_CLASSES)
    if imagenet and not labels:
        return ClassNames.imagenet()
    listed = [labels.get(str(number), str(number)) for number in range(num_classes)]
    return ClassNames(unmarked(listed, erased_classes(read_provenance(source))))
