"""The model card of an erased model: what was removed, how, from what, under which licence, and what it scores.

A card is a function of the saved folder and of the sections that its scores fill, so that it can be written again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.classes import ClassNames
from pipelines.identity import weight_digests
from pipelines.model_source import load_classes, model_settings
from pipelines.names import ClassEntry
from pipelines.provenance import Provenance, base_of, erased_classes, erasures
from pipelines.text import listed, markdown_table

from .config import ErasureConfig, erasure_from_dict
from .method import method_class
from .provenance import DIVERGED

DIT_LICENCE = "cc-by-nc-4.0"  # of facebook/DiT-XL-2-256 and -512
LICENCE_WORDS = {DIT_LICENCE: "CC BY-NC 4.0, which travels with every copy: no commercial use, the makers are named"}
ERASED_COLUMNS = ("class", "index", "wnid", "method", "from", "date")
UNSCORED = (
    "## Scores",
    "None: nothing here says how well the erasure worked. `erase eval` scores this folder, a repeated `erase run` with "
    "a protocol scores its run and completes this card.",
)
NO_GUARANTEE = (
    "- Erasure changes what the model draws. It does not certify that nothing of the class is left in the weights.",
    "- A class may return: by fine-tuning on a few images of it, by a learned label row, by inputs that nobody tried. "
    "An attack that is not listed above was not run.",
    "- Scores rest on one classifier, one protocol and the seeds above. A share of 0 of n images still allows the end "
    "of its interval.",
    "- Classes near the erased one may have suffered more than the average shows.",
    "- The base model still draws the class, and whoever holds it and this model knows what changed.",
)


def model_card(folder: Path, *, sections: Sequence[str] = UNSCORED) -> str:
    """Markdown with the hub's metadata header for a saved erased model; ``sections`` are its scores and attacks."""
    settings, names = model_settings(folder), load_classes(folder)
    provenance = settings["provenance"]
    gone = listed(names[index].name for index in erased_classes(provenance))
    config = erasure_from_dict(provenance["erased"])
    lines = [
        *metadata(provenance),
        f"# {base_name(provenance)} without {gone}",
        f"A class-conditional diffusion transformer; `dit-erase` erased {gone} from it.",
        *diverged_lines(provenance),
        "## What was erased",
        markdown_table(ERASED_COLUMNS, erased_rows(provenance, names), text_columns=len(ERASED_COLUMNS)),
        "## How",
        markdown_table(("what", "value"), how_rows(folder, provenance, config).items(), text_columns=2),
        "## How to load it",
        how_to_load(settings.get("time_embedding", "diffusers")),
        *sections,
        "## What this does not guarantee",
        "\n".join(NO_GUARANTEE),
        "## Configuration",
        f"```yaml\n{yaml.safe_dump(config.as_dict(), sort_keys=False).strip()}\n```",
    ]
    return "\n\n".join(line.strip("\n") for line in lines) + "\n"


def metadata(provenance: Provenance) -> list[str]:
    """The header that the hub reads; only a base model of the hub can be named there."""
    header: dict[str, Any] = {"library_name": "diffusers", "tags": ["class-erasure", "dit"]}
    if licence := licence_of(provenance):
        header["license"] = licence
    base = base_of(provenance)
    if "commit" in base.get("revision", {}):
        header |= {"base_model": base["source"], "base_model_relation": "finetune"}
    return [f"---\n{yaml.safe_dump(header, sort_keys=False).strip()}\n---"]


def diverged_lines(provenance: Provenance) -> list[str]:
    """A warning where these are the last good weights of an erasure that did not end well."""
    if not provenance.get("made", {}).get(DIVERGED):
        return []
    return ["**The erasure diverged. These are the last weights before it did: it is not finished.**"]


def erased_rows(provenance: Provenance, names: ClassNames) -> list[tuple[str, ...]]:
    """A row for each class of each erasure on the way from the base model, the first erasure first."""
    rows = []
    for each in erasures(provenance):
        config, date = erasure_from_dict(each["erased"]), each.get("made", {}).get("date", "not recorded")
        for index in config.forget_classes:
            entry: ClassEntry = names[index]
            rows.append((entry.name, str(index), entry.wnid or "", how_made(config), config.model, date))
    return rows


def how_rows(folder: Path, provenance: Provenance, config: ErasureConfig) -> dict[str, str]:
    """What made the weights of the last erasure, by what it is."""
    base, made = base_of(provenance), provenance.get("made", {})
    revision = revision_words(base.get("revision", {}))
    rows = {"base model": f"{base.get('source', config.model)}, {revision}"}
    if len(erasures(provenance)) > 1:
        rows["erased from"] = f"{config.model}, {revision_words(provenance['original'].get('revision', {}))}"
    licence = licence_of(provenance)
    return rows | {
        "licence": LICENCE_WORDS.get(licence, licence) or "not stated by the base model, whose terms hold for this one",
        "method": how_made(config),
        "data": "replay: the model's own samples" if config.data == "replay" else config.data,
        "seed": f"{config.seed}, of every random draw of the erasure",
        "device": made.get("device", "not recorded"),
        "date": made.get("date", "not recorded"),
        "weights": digest_words(weight_digests(folder)),
        "versions": ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items()),
    }


def how_made(config: ErasureConfig) -> str:
    """Method and training in a few words."""
    if not method_class(config.method).trains:
        return f"`{config.method}`"
    engine = config.engine
    return f"`{config.method}`, {engine.optimizers} optimizers, {engine.steps} steps"


def licence_of(provenance: Provenance) -> str:
    """The licence that travels with the weights: DiT's own for the released checkpoints, else one stated on the way.

    Empty when none is known.
    """
    stated = ""
    for each in (provenance, *(each["original"] for each in erasures(provenance)[::-1] if "original" in each)):
        source = f"{each.get('source', '')} {each.get('erased', {}).get('model', '')}"
        if "dit-xl-2" in source.lower():
            return DIT_LICENCE
        stated = stated or str(each.get("licence", ""))
    return stated


def base_name(provenance: Provenance) -> str:
    """The base model in one word: a hub id, or the last part of a folder."""
    base = base_of(provenance)
    source = str(base.get("source", "a model"))
    return source if "commit" in base.get("revision", {}) else Path(source).name


def revision_words(revision: Mapping[str, Any]) -> str:
    """A commit, or the digests of the weights."""
    if "commit" in revision:
        return f"commit `{revision['commit']}`"
    return digest_words(revision.get("sha256", {})) or "revision not recorded"


def digest_words(digests: Mapping[str, str]) -> str:
    """Files with their digests."""
    return ", ".join(f"`{name}` sha256 `{digest}`" for name, digest in digests.items())


def how_to_load(time_embedding: str) -> str:
    """The lines of Python that load this folder correctly."""
    if time_embedding == "diffusers":
        return (
            "```python\nfrom diffusers import DiTPipeline\n\npipe = DiTPipeline.from_pretrained(folder)\n```\n\n"
            "The folder carries a DDIM scheduler; `dit.json` holds what diffusers' files cannot."
        )
    return (
        "The model keeps the original time embedding, which `DiTPipeline` would evaluate differently:\n\n"
        "```python\nfrom pipelines.model import load\n\nmodel = load(folder)\n```"
    )
