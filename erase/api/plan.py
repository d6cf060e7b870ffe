"""The plan of a run before anything is loaded: steps, rows, memory, disk and time, counted from configurations."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

from eval.protocol import Protocol
from pipelines.classes import ClassNames
from pipelines.embedding import tie_embedders
from pipelines.files import read_json
from pipelines.model_source import load_classes, load_noise_schedule, read_provenance, transformer_config, vae_dir
from pipelines.sampler import SamplerSettings
from pipelines.sources import REPLAY

from ..config import ErasureConfig
from ..configure import method_of
from ..method import Method
from ..posterior import PosteriorRecipe, posterior_flops

BYTES = 4  # float32


def count(config: ErasureConfig, protocol: Protocol | None, device: torch.device) -> dict[str, Any]:
    """Everything countable about a run, as plain JSON types."""
    transformer = on_meta(DiTTransformer2DModel, transformer_config(config.model))
    tie_embedders(transformer, time_embedding="diffusers", check=False)
    vae = on_meta(AutoencoderKL, read_json(vae_dir(config.model, config.vae) / "config.json"))
    names, method = load_classes(config.model), method_of(config)
    trainable = sum(parameter.numel() for parameter in transformer.parameters())
    vae_size = sum(parameter.numel() for parameter in vae.parameters())

    # Network rows: one image through the transformer once; backward counts as two forwards.
    rows = erasure_rows(config, method, num_retained=len(names) - len(config.forget_classes))
    if not method.trains:
        rows |= {"forget": 0, "retain": method.edit_rows(read_provenance(config.model))}
    scored = scoring_rows(config, protocol) if protocol else 0
    row_flops = forward_flops(transformer)
    states = 2 if config.engine.optimizers == "dual" else 1
    fishers = sum(need.endswith("fisher") for need in method.needs)
    copies = 2 + 2 * states + ("reference_model" in method.needs) + fishers
    total_flops = (sum(rows.values()) + scored) * row_flops
    stops = config.engine.stop_below > 0 and not config.stop_classifier
    if "posterior" in method.needs or stops:
        shape = (transformer.config.in_channels, *[transformer.config.sample_size] * 2)
        total_flops += posterior_flops(shape, len(names), PosteriorRecipe())
    return {
        "erase": [names[index].name for index in config.forget_classes],
        "warnings": sibling_warnings(names, config.forget_classes),
        "model": config.model,
        "method": config.method,
        "optimizers": config.engine.optimizers,
        "data": config.data,
        "device": str(device),
        "steps": config.engine.steps if method.trains else 0,
        "needs": sorted(method.needs),
        "trainable_weights": trainable,
        "rows": {**rows, "scoring": scored},
        "tflop": total_flops / 1e12,
        "weights_and_states_bytes": (trainable * copies + vae_size) * BYTES,
        "disk_bytes": (trainable + vae_size) * BYTES,
        "estimated_seconds": total_flops / measured_flops(device),
    }


def sibling_warnings(names: ClassNames, forget_classes: Sequence[int]) -> list[str]:
    """One sentence for each retained class whose images often show an erased one: it would train that back in."""
    return [
        f"{share:.0%} of the images of {names[other].name} ({other}) also show {names[index].name}: retaining it "
        f"trains {names[index].name} back in; --also {other} erases both"
        for index in forget_classes
        for other, share in names.siblings(index)
        if other not in forget_classes
    ]


def tell_siblings(config: ErasureConfig) -> None:
    """The same on stderr, before a run starts."""
    for sentence in sibling_warnings(load_classes(config.model), config.forget_classes):
        print(f"warning: {sentence}", file=sys.stderr)


def on_meta(kind: type, config: Mapping[str, Any]) -> torch.nn.Module:
    """A model without storage."""
    with torch.device("meta"):
        return kind.from_config(config)


def erasure_rows(config: ErasureConfig, method: Method, *, num_retained: int) -> dict[str, int]:
    """Forward-equivalent network rows of preparation, forget and retain phases."""
    engine, needs = config.engine, method.needs
    num_timesteps = load_noise_schedule(config.model).num_timesteps
    attack = ((engine.robust_steps + 1) / 2 + 1) / engine.robust_every if engine.robust else 0
    frozen = method.target_passes(num_retained)
    fishers = ("forget_fisher" in needs) + ("data_fisher" in needs) + num_timesteps * ("summed_fisher" in needs)
    replayed = config.data == REPLAY or "replay" in needs
    num_replayed = replayed * config.replay_per_class * (num_retained + len(config.forget_classes))
    return {
        "preparation": 3 * fishers * config.fisher_samples + num_replayed * SamplerSettings().num_inference_steps,
        "forget": int(engine.steps * engine.forget_steps * engine.forget_batch_size * (3 + frozen + 3 * attack)),
        "retain": 3 * engine.steps * engine.retain_steps * engine.retain_batch_size,
    }


def scoring_rows(config: ErasureConfig, protocol: Protocol) -> int:
    """Network rows of scoring original and erased, and of the row probe's four subjects."""
    settings = protocol.sampler_settings()
    images = 2 * (protocol.num_forget_images * len(config.forget_classes) + protocol.num_retain_images) + 4 * 2 * 250
    return images * settings.num_inference_steps * settings.rows_per_step


def forward_flops(transformer: DiTTransformer2DModel) -> float:
    """Multiply-adds of one row, counted twice: products with every weight matrix plus attention."""
    config = transformer.config
    tokens = (config.sample_size // config.patch_size) ** 2
    width = config.num_attention_heads * config.attention_head_dim
    once = ("norm1.linear", "timestep_embedder", "proj_out_1", "class_embedder")
    flops = 0.0
    for name, parameter in transformer.named_parameters():
        if parameter.ndim >= 2 and "embedding_table" not in name:
            flops += 2 * parameter.numel() * (1 if any(part in name for part in once) else tokens)
    return flops + config.num_layers * 4 * tokens**2 * width


def measured_flops(device: torch.device) -> float:
    """FLOP per second of a product of the size that a DiT block has; a fraction of a second to measure."""
    size = 512 if device.type == "cpu" else 4096
    left = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device)
    for _ in range(3):
        left @ left
    if device.type == "cuda":
        torch.cuda.synchronize()
    started, rounds = time.perf_counter(), 20
    for _ in range(rounds):
        left @ left
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 0.35 * rounds * 2 * size**3 / (time.perf_counter() - started)  # share of it that a whole step reaches


def text(plan: Mapping[str, Any]) -> str:
    """The plan for a terminal."""
    rows = ", ".join(f"{name} {value:,}" for name, value in plan["rows"].items())
    return "\n".join(
        [
            f"erase      {', '.join(plan['erase'])} from {plan['model']}",
            f"method     {plan['method']}, {plan['optimizers']} optimizers, {plan['steps']} steps",
            f"data       {plan['data']}",
            f"prepares   {', '.join(plan['needs']) or 'nothing'}",
            f"weights    {plan['trainable_weights']:,} trainable",
            f"rows       {rows} (forward passes of one image; backward counted as two)",
            f"memory     {plan['weights_and_states_bytes'] / 2**30:.2f} GiB of weights, gradients and states",
            f"disk       {plan['disk_bytes'] / 2**30:.2f} GiB",
            *(f"warning    {sentence}" for sentence in plan["warnings"]),
            f"time       about {duration(plan['estimated_seconds'])} on {plan['device']} ({plan['tflop']:.1f} TFLOP)",
        ]
    )


def duration(seconds: float) -> str:
    """A rough time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
