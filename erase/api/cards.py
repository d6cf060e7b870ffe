"""The model card of a run: written by the erasure, written again whenever its record has changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.card_sections import card_sections
from eval.evaluate import read_record
from pipelines.files import write_text
from pipelines.model import DiT, save
from pipelines.model_source import CARD_FILE

from ..card import model_card
from ..config import ErasureConfig
from ..provenance import DIVERGED, circumstances, erased_provenance
from ..rundir import RunDir


def keep(
    model: DiT, original: Mapping[str, Any], config: ErasureConfig, folder: Path, *, diverged: bool = False
) -> None:
    """Save an erased model with its card; from now on it remembers the provenance ``original`` and its erasure."""
    made = circumstances(model.device) | ({DIVERGED: True} if diverged else {})
    model.provenance = erased_provenance(config, original, made=made)
    save(model, folder, card=model_card)


def write_card(folder: RunDir) -> None:
    """Write the card of a finished run with whatever its record knows; it appears whole or not at all."""
    if not folder.results_path.exists():
        text = model_card(folder.model_dir)
    else:
        text = model_card(folder.model_dir, sections=card_sections(read_record(folder.results_path)))
    write_text(text, folder.model_dir / CARD_FILE)
