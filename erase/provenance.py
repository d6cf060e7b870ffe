"""What an erased model says of itself: how it was made, when, on what, and from which model exactly."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from pipelines.identity import revision_of, stated_licence
from pipelines.versions import versions

from .config import ErasureConfig

DIVERGED = "diverged"  # of an erasure whose last good weights were kept


def circumstances(device: torch.device | str) -> dict[str, Any]:
    """Date, device and versions of now, for ``erased_provenance``."""
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return {"date": datetime.now(UTC).date().isoformat(), "device": name, "versions": versions()}


def erased_provenance(config: ErasureConfig, original: Mapping[str, Any], *, made: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a model that was erased from one of the provenance ``original``, which gains its revision."""
    before = {**original, "revision": revision_of(config.model)}
    if licence := stated_licence(config.model):
        before.setdefault("licence", licence)
    return {"erased": config.as_dict(), "made": dict(made), "original": before}
