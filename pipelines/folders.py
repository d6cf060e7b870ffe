"""Where the class folders of a data set are, which class each one is, and which images lie in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .archives import ACCEPTED, Store
from .classes import ClassNames
from .decoding import SUFFIXES
from .errors import UsageError
from .image_set import Skipped

TRAIN_SPLITS = ("train", "training")
OTHER_SPLITS = ("val", "valid", "validation", "test", "testing", "dev", "eval")


class FoundImages(NamedTuple):
    """The image files of a data set, by class folder and name."""

    root: str  # folder that holds the class folders
    files: list[str]
    sizes: list[int]
    labels: list[int]
    class_names: ClassNames
    skipped: list[Skipped]


def find_images(store: Store, class_names: ClassNames | None, *, ignore_unknown: bool, flag: str) -> FoundImages:
    """Every image file with the label of its class folder; without ``class_names`` the sorted folders are the classes.

    Raises ``UsageError`` for a folder that is no class of the model or fits several, and when there is no image.
    """
    root, skipped = find_class_root(store, class_names, flag=flag)
    folders, loose = subfolders(store, root), loose_files(store, root)
    skipped += [(join(root, name), "not in a class folder") for name in loose]
    if class_names is not None:
        labels = label_folders(folders, class_names, ignore_unknown=ignore_unknown, where=store.path, flag=flag)
        skipped += [(join(root, name) + "/", "not a class of the model") for name in folders if name not in labels]
        folders = [name for name in folders if name in labels]

    # Images, by folder; a folder without any is no class.
    images = {folder: list_images(store, join(root, folder), skipped) for folder in folders}
    images = {folder: found for folder, found in images.items() if found}
    if not images:
        raise UsageError(nothing_sentence(store, loose, skipped, flag=flag))
    if class_names is None:
        class_names = ClassNames(tuple(images))
        labels = {folder: index for index, folder in enumerate(images)}
    rows = [(name, size, labels[folder]) for folder, found in images.items() for name, size in found]
    return FoundImages(root, *map(list, zip(*rows, strict=True)), class_names, skipped)


def find_class_root(store: Store, class_names: ClassNames | None, *, flag: str) -> tuple[str, list[Skipped]]:
    """The folder that holds the class folders, below ``train/`` or folders that only wrap it, and what is passed by."""
    root, skipped = "", []
    while True:
        folders = subfolders(store, root)
        inner = {
            name: subfolders(store, join(root, name))
            for name in folders
            if len(folders) == 1 or name.lower() in (*TRAIN_SPLITS, *OTHER_SPLITS)
        }
        chosen = choose_nested([name for name in inner if inner[name]], where=store.path, flag=flag)
        if chosen is None or (has_class(folders, class_names) and not has_class(inner[chosen], class_names)):
            return root, skipped
        others = [f"{name}/" for name in folders if name != chosen] + loose_files(store, root)
        skipped += [(join(root, name), f"beside {chosen}/, not mixed in") for name in others]
        root = join(root, chosen)


def choose_nested(nested: Sequence[str], *, where: Path, flag: str) -> str | None:
    """Among splits or a wrapper that hold folders: the training split, or the only one."""
    candidates = [name for name in nested if name.lower() in TRAIN_SPLITS] or nested
    if len(candidates) > 1:
        splits = " and ".join(candidates)
        raise UsageError(
            f"{flag} {where} holds the splits {splits} but no train; give a folder or archive of one of them"
        )
    return candidates[0] if candidates else None


def has_class(folders: Sequence[str], class_names: ClassNames | None) -> bool:
    """Whether one of the folders fits a class of the model."""
    return class_names is not None and any(class_names.folder_matches(name) for name in folders)


def label_folders(
    folders: Sequence[str],
    class_names: ClassNames,
    *,
    ignore_unknown: bool,
    where: Path,
    flag: str,
    kind: Literal["folder", "label"] = "folder",
) -> dict[str, int]:
    """The class of each folder, or label of a data set, by its wnid or name, never by its place."""
    labels = {}
    for name in folders:
        if ignore_unknown and not class_names.folder_matches(name):
            continue
        try:
            labels[name] = class_names.resolve_folder(name)
        except UsageError as error:
            advice = "rename it to a wnid, an index or the name of one class"
            message = f"{flag} {where}: the {kind} {name!r} is not exactly one class of the model ({advice}): {error}"
            raise type(error)(message) from error
    return labels


def list_images(store: Store, folder: str, skipped: list[Skipped]) -> list[tuple[str, int]]:
    """(name, size) of the image files at any depth in a folder, sorted; other files are added to ``skipped``."""
    images = []
    for name, size in sorted(store.files(folder), key=lambda item: item[0]):
        if any(hidden(part) for part in name[len(folder) :].split("/")):
            continue
        reason = None
        if not name.lower().endswith(SUFFIXES):
            reason = "not named as an image"
        elif not size:
            reason = "not a regular file" if size is None else "empty file"
        if reason:
            skipped.append((name, reason))
        else:
            images.append((name, size))
    return images


def nothing_sentence(store: Store, loose: Sequence[str], skipped: Sequence[Skipped], *, flag: str) -> str:
    """No image was found."""
    if any(name.lower().endswith(SUFFIXES) for name in loose):
        return f"{flag} {store.path} holds images outside class folders; give {ACCEPTED}"
    first = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
    return f"{flag} {store.path} holds no class folder with images{first}; give {ACCEPTED}"


def subfolders(store: Store, folder: str) -> list[str]:
    """The folders directly in a folder."""
    return [name for name in store.listing(folder)[0] if not hidden(name)]


def loose_files(store: Store, folder: str) -> list[str]:
    """The files directly in a folder."""
    return [name for name in store.listing(folder)[1] if not hidden(name)]


def join(folder: str, name: str) -> str:
    """A name inside a folder of a store."""
    return f"{folder}/{name}" if folder else name


def hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system rather than to the data."""
    return name.startswith(".") or name == "__MACOSX"
