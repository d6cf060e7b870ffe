"""What may leave the house: a saved model holds exactly one set of weights, and no file that nobody expects."""

import re
from pathlib import Path

import torch
from safetensors import safe_open

from .errors import UsageError
from .files import check_weights, read_json
from .model_source import CARD_FILE, SETTINGS_FILE

# Everything that ``save`` writes, by its path in the folder; weights of large models come in numbered parts.
NETWORK = r"(config\.json|diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors(\.index\.json)?)"
EXPECTED = re.compile(
    rf"{re.escape(CARD_FILE)}|{re.escape(SETTINGS_FILE)}|model_index\.json|scheduler/scheduler_config\.json|"
    rf"(transformer|vae)/{NETWORK}|classifier/(config\.json|model\.safetensors)"
)


def check_release(folder: Path) -> list[str]:
    """The files of a saved model, once nothing among them can hold the class that was erased.

    Raises ``UsageError`` for a file that ``save`` does not write (averaged weights, an optimizer, a checkpoint, masks,
    a delta) and for a tensor that is none of the network's; ``MissingError`` for weights that are absent or damaged.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    for name in files:
        if not EXPECTED.fullmatch(name):
            raise UsageError(f"{folder / name} is no part of a saved model: move it away before the folder is released")
    for kind, part in ((DiTTransformer2DModel, folder / "transformer"), (AutoencoderKL, folder / "vae")):
        check_weights(part)
        with torch.device("meta"):
            known = kind.from_config(read_json(part / "config.json")).state_dict()
        if strangers := [name for name in stored_names(part) if name not in known]:
            raise UsageError(f"{part} holds {strangers[0]}, which is no weight of the network")
    return files


def stored_names(folder: Path) -> list[str]:
    """The names of all tensors in a folder's safetensors."""
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            names += stored.keys()
    return names
