"""The label table of a model straight from its files: one tensor, without loading the network."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from .errors import MissingError
from .files import is_safetensors
from .model_source import original_path, resolve_folder
from .original import EMBEDDER, read_original

TABLE = "class_embedder.embedding_table"


def stored_label_rows(source: str | Path) -> Tensor | None:
    """The label table (num_classes + 1, D) in float32, its last row the null class.

    None where no safetensors are at hand: a hub model that was not downloaded yet, or weights that are pickled.
    """
    if (path := original_path(source)) is not None:
        name = next(theirs for theirs, ours in EMBEDDER.items() if ours == TABLE)
        return read_original(path)[f"{name}.weight"].float()
    try:
        folder = resolve_folder(source) / "transformer"
    except MissingError:
        return None
    for file in filter(is_safetensors, sorted(folder.glob("*.safetensors"))):
        with safe_open(file, framework="pt") as stored:
            name = next((key for key in stored.keys() if key.endswith(f"{TABLE}.weight")), None)  # noqa: SIM118
            if name is not None:
                return stored.get_tensor(name).float()
    return None
