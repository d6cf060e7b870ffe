"""The model card of an erased model: what was removed, how, from what, under which licence."""

from collections.abc import Mapping
from typing import Any

import yaml

from pipelines.model import DiT

from .config import ErasureConfig
from .method import method_class

DIT_LICENCE = "cc-by-nc-4.0"  # of facebook/DiT-XL-2-256 and -512


def model_card(model: DiT, config: ErasureConfig) -> str:
    """Markdown with the hub's metadata header."""
    names = ", ".join(model.classes[index].name for index in config.forget_classes)
    licence = licence_of(model.provenance, config.model)
    header = {"library_name": "diffusers", "tags": ["class-erasure", "dit"], "base_model": config.model}
    if licence:
        header["license"] = licence
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False).strip(),
            "---",
            f"# {config.model} without {names}",
            "",
            f"A class-conditional diffusion transformer from which {names} was erased with {how_made(config)}.",
            "",
            how_to_load(model),
            "",
            "## Configuration",
            "```yaml",
            yaml.safe_dump(config.as_dict(), sort_keys=False).strip(),
            "```",
            "",
        ]
    )


def how_made(config: ErasureConfig) -> str:
    """Method and training in a few words."""
    if not method_class(config.method).trains:
        return f"`{config.method}`"
    engine = config.engine
    return f"`{config.method}`, {engine.optimizers} optimizers, {engine.steps} steps, seed {config.seed}"


def licence_of(provenance: Mapping[str, Any], source: str) -> str:
    """The licence that travels with the weights; DiT's own for the released checkpoints, empty when unknown."""
    return DIT_LICENCE if "dit-xl-2" in source.lower() else str(provenance.get("licence", ""))


def how_to_load(model: DiT) -> str:
    """The lines of Python that load this folder correctly."""
    if model.time_embedding == "diffusers":
        return "```python\nfrom diffusers import DiTPipeline\n\npipe = DiTPipeline.from_pretrained(folder)\n```"
    return (
        "The model keeps the original time embedding, which diffusers would evaluate differently:\n"
        "```python\nfrom pipelines.model import load\n\nmodel = load(folder)\n```"
    )
