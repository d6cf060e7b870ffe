"""Checkpoints of the original DiT code beside their companions, files that say what the weights cannot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import read_json, write_json

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")  # of such a checkpoint


def companion_path(path: Path) -> Path:
    """The file beside a checkpoint that says what weights cannot: heads, class names and, if known, provenance."""
    return path.with_suffix(".dit.json")


def read_companion(path: Path) -> dict[str, Any]:
    """What the companion of a checkpoint says; nothing where there is none."""
    companion = companion_path(path)
    return read_json(companion) if companion.exists() else {}


def write_companion(
    path: Path, *, num_attention_heads: int, id2label: Mapping[int, str], provenance: Mapping[str, Any]
) -> None:
    """Write the companion of an exported checkpoint, so that it loads again without a question."""
    labels = {str(index): label for index, label in id2label.items()}
    facts = {"num_attention_heads": num_attention_heads, "id2label": labels, "provenance": dict(provenance)}
    write_json(facts, companion_path(path))
