"""Image data sets of Hugging Face on disk, as ``datasets.save_to_disk`` writes them, labelled by their class names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .classes import ClassNames
from .encoded_images import EncodedImages
from .errors import MissingError, UsageError
from .files import read_json
from .folders import TRAIN_SPLITS, label_folders
from .image_set import Skipped, as_indices

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray

SPLITS_FILE = "dataset_dict.json"  # of a data set with splits
STATE_FILES = ("state.json", "dataset_info.json")  # of one without, or of one split


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HubImages(EncodedImages):
    """Rows of a Hugging Face data set."""

    path: Path
    files: "ChunkedArray"  # binary, an image file for each row of the data set; mapped from disk
    rows: Tensor  # (N,)
    sizes: Tensor  # (N,) bytes
    labels: Tensor
    class_names: ClassNames
    image_size: int
    skipped: tuple[Skipped, ...]

    def name(self, index: int) -> str:
        """The number of the row."""
        return row_name(int(self.rows[index]))

    def describe(self, index: int) -> str:
        """The folder and the row."""
        return f"{self.path} {self.name(index)}"

    def read_bytes(self, index: int, *, limit: int = -1) -> bytes:
        """The bytes of the row's image file."""
        file = self.files[int(self.rows[index])].as_buffer()
        return (file if limit < 0 else file[:limit]).to_pybytes()

    def listing(self) -> Sequence[Any]:
        """Size and label of each image."""
        return list(zip(self.sizes.tolist(), self.labels.tolist(), strict=True))

    def subset(self, indices: Tensor | Sequence[int]) -> "HubImages":
        """The images at ``indices``, in that order."""
        chosen = as_indices(indices)
        return replace(self, rows=self.rows[chosen], sizes=self.sizes[chosen], labels=self.labels[chosen])


def is_hub_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``, told by its files."""
    return (path / SPLITS_FILE).is_file() or all((path / name).is_file() for name in STATE_FILES)


def check_hub_dataset(path: Path, *, flag: str) -> None:
    """Hold the package that reads such a folder to being installed (``MissingError``)."""
    try:
        from datasets import load_from_disk  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f"{flag} {path} is a Hugging Face data set, which needs an extra: pip install 'dit-erase[datasets]'"
        ) from error


def open_hub_images(
    source: str | Path, class_names: ClassNames | None, *, image_size: int, ignore_unknown: bool, flag: str
) -> HubImages:
    """The images of such a folder, or of its train split, labelled by the names of its classes, never by their order.

    Raises ``MissingError`` when it is damaged or the extra is not installed, ``UsageError`` when it has no image and
    class label features, or a class that is not exactly one of the model's.
    """
    path = Path(source)
    folder, skipped = split_folder(path, flag=flag)
    dataset = load_dataset(folder, flag=flag)
    image_column, label_column = columns(dataset, path, flag=flag)
    files, sizes = image_files(dataset, image_column)
    numbers = dataset.data.column(label_column).fill_null(-1).to_numpy()

    # Rows that hold nothing to learn from.
    for found, reason in ((sizes == 0, "holds no image"), ((sizes > 0) & (numbers < 0), "has no label")):
        skipped += [(row_name(row), reason) for row in found.nonzero()[0].tolist()]
    numbers = np.where(sizes > 0, numbers, -1)
    if not (numbers >= 0).any():
        raise UsageError(f"{flag} {path} holds no image with a label")

    # The classes that occur, in the model's numbers; without a model they are the classes.
    names = dataset.features[label_column].names
    present = sorted({names[number] for number in np.unique(numbers).tolist() if number >= 0})
    class_names = class_names or ClassNames(tuple(present))
    labels = label_folders(present, class_names, ignore_unknown=ignore_unknown, where=path, flag=flag, kind="label")
    skipped += [(f"label {name}", "not a class of the model") for name in present if name not in labels]
    row_labels = np.array([*(labels.get(name, -1) for name in names), -1])[numbers]
    rows = torch.from_numpy((row_labels >= 0).nonzero()[0])
    return HubImages(
        path=path,
        files=files,
        rows=rows,
        sizes=torch.from_numpy(sizes)[rows],
        labels=torch.from_numpy(row_labels)[rows],
        class_names=class_names,
        image_size=image_size,
        skipped=tuple(skipped),
    )


def split_folder(path: Path, *, flag: str) -> tuple[Path, list[Skipped]]:
    """The folder of a data set or of its training split, and the other splits (``UsageError`` without a train)."""
    if not (path / SPLITS_FILE).is_file():
        return path, []
    splits = read_json(path / SPLITS_FILE)["splits"]
    for train in splits:
        if train.lower() in TRAIN_SPLITS:
            return path / train, [(f"{name}/", f"beside {train}/, not mixed in") for name in splits if name != train]
    raise UsageError(
        f"{flag} {path} holds the splits {' and '.join(splits)} but no train; give the folder of one of them"
    )


def load_dataset(folder: Path, *, flag: str) -> "Dataset":
    """A data set, mapped from its files (``MissingError`` when it is damaged)."""
    check_hub_dataset(folder, flag=flag)
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MissingError(f"{flag} {folder} cannot be read as a Hugging Face data set: {reason}") from error


def columns(dataset: "Dataset", path: Path, *, flag: str) -> tuple[str, str]:
    """The columns of images and of class labels: the only ones, or those called ``image`` and ``label``."""
    from datasets import ClassLabel, Image

    found = []
    for kind, usual in ((Image, "image"), (ClassLabel, "label")):
        fitting = [name for name, feature in dataset.features.items() if isinstance(feature, kind)]
        if len(fitting) != 1 and usual not in fitting:
            held = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in dataset.features.items())
            raise UsageError(
                f"{flag} {path} needs one {kind.__name__} feature, or one called {usual!r}, and has {held}"
            )
        found.append(fitting[0] if len(fitting) == 1 else usual)
    return found[0], found[1]


def image_files(dataset: "Dataset", column: str) -> tuple["ChunkedArray", np.ndarray]:
    """The files of a column of images and the bytes (N,) of each, 0 where there is none; reads no image."""
    from pyarrow import compute

    files = compute.struct_field(dataset.data.column(column), "bytes")
    return files, compute.binary_length(files).fill_null(0).to_numpy().astype(np.int64)


def row_name(row: int) -> str:
    """How a row is called in messages."""
    return f"row {row}"
