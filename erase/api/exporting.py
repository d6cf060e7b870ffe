"""Other forms of an erased model: a checkpoint for the original code, a delta against its base, and back."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from pipelines.companion import write_companion
from pipelines.delta import apply_delta, difference, load_delta, save_delta
from pipelines.errors import MissingError, UsageError
from pipelines.files import check_output, replace_file
from pipelines.model import DiT, load, save
from pipelines.model_source import original_path
from pipelines.original import to_original

from ..card import model_card
from ..config import erasure_from_dict
from ..erasure import load_original
from ..provenance import erased_provenance
from ..rundir import find_run

FORMATS = ("original", "delta")


def export(run: str | Path, output: str | Path, *, form: str) -> Path:
    """Write the erased model of a run as one file.

    ``form`` is ``original`` (.pt or .safetensors, as the original DiT code names weights) or ``delta`` (.safetensors,
    what changed; reversible by whoever holds the base). Raises ``UsageError`` for another form or suffix.
    """
    folder, path = find_run(run), Path(output)
    suffixes = {"original": (".pt", ".safetensors"), "delta": (".safetensors",)}
    if form not in FORMATS:
        raise UsageError(f"--format {form!r} is not one of {', '.join(FORMATS)}")
    check_output(path, suffixes=suffixes[form], reason=f" for --format {form}")
    if not folder.is_erased:
        raise MissingError(f"{folder.path} is not finished: repeat its command first")
    erased = load(folder.model_dir)
    if form == "original":
        write_original(erased, path)
        return path
    config = folder.config
    base = load_original(config, device="cpu")
    made = erased.provenance.get("made", {})
    about = {"base": config.model, "config": config.as_dict(), "behaviour": base.behaviour(), "made": made}
    save_delta(difference(base.transformer, erased.transformer, about=about), path)
    return path


def write_original(model: DiT, path: Path) -> None:
    """Write a checkpoint that the original code loads, and its companion with what weights cannot say.

    Raises ``UsageError`` for a model with diffusers' time embedding, which the original code would evaluate otherwise.
    """
    if model.time_embedding != "original":
        raise UsageError(
            "the model has diffusers' time embedding, which the original code does not compute: its outputs would "
            "differ by about 1 %; erase with --time-embedding original to export it"
        )
    heads = model.transformer.config.num_attention_heads
    write_companion(path, num_attention_heads=heads, id2label=model.id2label, provenance=model.provenance)
    state = to_original(model.transformer)
    with replace_file(path) as temporary:
        save_file(state, temporary) if path.suffix == ".safetensors" else torch.save(state, temporary)


def apply(delta_path: str | Path, output: str | Path, *, base: str = "", vae: str = "") -> Path:
    """Rebuild an erased model from its base and a delta, as a diffusers folder.

    ``base`` and ``vae`` name the base where it is not the one that the delta remembers. Raises ``UsageError`` for
    another base, be it in its weights or in how they are used.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--output {folder} is a file or not empty; name a new folder")
    delta = load_delta(Path(delta_path))
    remembered = delta.about["config"]
    base = base or remembered["model"]
    vae = vae or (remembered["vae"] if original_path(base) else "")
    config = erasure_from_dict({**remembered, "model": base, "vae": vae})
    model = load_original(config, device="cpu")
    if model.behaviour() != delta.about["behaviour"]:
        raise UsageError(
            f"the delta was made from a base with {delta.about['behaviour']}, {config.model} has {model.behaviour()}"
        )
    apply_delta(model.transformer, delta)
    model.provenance = erased_provenance(config, model.provenance, made=delta.about.get("made", {}))
    return save(model, folder, card=model_card)
