"""What ``erase probe`` would take: counted for each probe from configurations, before any weight is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from eval.cost import Cost, Terms, probe_cost
from eval.evaluate import read_record
from eval.probe import AMOUNTS, count_attacks, named_probes
from eval.protocol import Protocol
from pipelines.files import read_json
from pipelines.model_source import read_provenance, transformer_config, vae_dir
from pipelines.posterior_head import latent_shape_of
from pipelines.provenance import retained_classes
from pipelines.text import counted, duration, operations

from ..config import ErasureConfig
from ..memory import described, meta_transformer
from .devices import pick_device
from .plan import forward_flops, on_meta
from .probing import checked_run
from .retrained import check_retrained
from .speed import IDLE, measured_flops

SUBJECTS = ("original", "embedding_reset", "erased", "control")


def plan(
    run: str | Path,
    *,
    probes: Sequence[str] = (),
    budget: str = "quick",
    data: str | None = None,
    retrained: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """The cost of each probe on all its subjects as plain JSON types.

    It is what a first time takes: outcomes that are kept are counted too, the scoring of a retrained model is not.
    Takes what ``probe`` takes and raises what it raises for a bad name or value.
    """
    folder, names = checked_run(run, budget=budget, data=data), named_probes(probes)
    if retrained is not None:
        check_retrained(retrained, folder.config)
    protocol = Protocol(**read_record(folder.results_path)["asked"]["protocol"])
    floor = retrained is not None
    return attacks_plan(folder.config, protocol, names=names, budget=budget, floor=floor, device=pick_device(device))


def attacks_plan(
    config: ErasureConfig, protocol: Protocol, *, names: Sequence[str], budget: str, floor: bool, device: torch.device
) -> dict[str, Any]:
    """The cost of some probes on an erasure, made or not; ``floor`` counts those on a retrained model as well."""
    subjects = [*SUBJECTS, *(["retrained"] if floor else [])]
    terms = terms_of(config, protocol, budget=budget)
    num_attacks = count_attacks(len(config.forget_classes), floor=floor)
    found = costs(names, terms, decode_flops(config), num_attacks=num_attacks)
    speed = measured_flops(device)
    return {
        "budget": budget,
        "protocol": protocol.name,
        "subjects": subjects,
        "num_classes": len(config.forget_classes),
        "device": str(device),
        "probes": {name: {**entry, "seconds": 1e12 * entry["tflop"] / speed} for name, entry in found.items()},
        "tflop": sum(entry["tflop"] for entry in found.values()),
        "seconds": 1e12 * sum(entry["tflop"] for entry in found.values()) / speed,
    }


def terms_of(config: ErasureConfig, protocol: Protocol, *, budget: str) -> Terms:
    """What the costs depend on, from the configuration of the model that was erased from."""
    transformer = meta_transformer(described(transformer_config(config.model)))
    num_classes, provenance = transformer.config.num_embeds_ada_norm, read_provenance(config.model)
    # Each class is attacked by itself, and the other erased ones are classes like any to its attacker.
    others = retained_classes(provenance, config.forget_classes[:1], num_classes=num_classes)
    return Terms(
        amount=AMOUNTS[budget],
        protocol=protocol,
        transformer_config=transformer.config,
        row_flops=forward_flops(transformer),
        num_others=len(others),
    )


def costs(names: Sequence[str], terms: Terms, image_flops: float, *, num_attacks: int) -> dict[str, dict[str, Any]]:
    """For each probe the counts on all subjects and classes together and their floating-point operations.

    Those of judging an image are left out: they are few beside those of drawing it.
    """
    found = {}
    for name in names:
        once = probe_cost(name, terms)
        flops = num_attacks * attack_flops(once, terms.row_flops, image_flops) + once.training_flops
        found[name] = {
            "forward_rows": num_attacks * once.forward_rows,
            "backward_rows": num_attacks * once.backward_rows,
            "images": num_attacks * once.images,
            "tflop": flops / 1e12,
        }
    return found


def attack_flops(cost: Cost, row_flops: float, image_flops: float) -> float:
    """Floating-point operations of one attack; a row backward counts as two forward."""
    rows = cost.forward_rows + 2 * cost.backward_rows
    return rows * row_flops + cost.images * image_flops + cost.classifier_flops


def decode_flops(config: ErasureConfig) -> float:
    """Floating-point operations of decoding one image, counted on tensors without storage."""
    from diffusers import AutoencoderKL

    vae = on_meta(AutoencoderKL, read_json(vae_dir(config.model, config.vae) / "config.json"))
    latents = torch.empty(1, *latent_shape_of(transformer_config(config.model)), device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(latents)
    return float(counter.get_total_flops())


def several(found: Mapping[str, Any]) -> str:
    """What a plan says behind its subjects where several classes were erased."""
    count = found["num_classes"]
    return f", for each of {count} erased classes; the control once" if count > 1 else ""


def text(found: Mapping[str, Any]) -> str:
    """The plan for a terminal."""
    subjects = ", ".join(found["subjects"]) + several(found)
    lines = [
        f"budget     {found['budget']}, protocol {found['protocol']}",
        f"attacks    {counted(len(found['probes']), 'probe')} on each of {subjects}",
    ]
    width = max(map(len, found["probes"]))
    for name, entry in found["probes"].items():
        rows = f"{counted(entry['forward_rows'], 'row')} forward, {entry['backward_rows']:,} back"
        time = f"{operations(entry['tflop'])}, about {duration(entry['seconds'])}"
        lines.append(f"{name.ljust(width)}  {rows}, {counted(entry['images'], 'image')} scored; {time}")
    total = f"about {duration(found['seconds'])} on {found['device']}, {IDLE} ({operations(found['tflop'])})"
    return "\n".join([*lines, f"time       {total}; attacks that were made before are not made again"])
