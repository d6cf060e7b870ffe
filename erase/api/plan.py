"""The plan of a run before anything is loaded: steps, rows, memory, disk and time, counted from configurations."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from eval.probe import count_attacks
from eval.protocol import Protocol
from pipelines.classes import ClassNames
from pipelines.embedding import untied_state_dict
from pipelines.files import read_json
from pipelines.launcher import num_launched
from pipelines.model_source import (
    is_known_offline_only,
    load_classes,
    load_noise_schedule,
    read_provenance,
    transformer_config,
    vae_dir,
)
from pipelines.posterior_head import (
    PosteriorKind,
    forward_share,
    latent_shape_of,
    num_read,
    posterior_kind,
    recipe_of,
    training_flops,
)
from pipelines.provenance import earlier_classes, erased_classes
from pipelines.sampler import SamplerSettings
from pipelines.sources import REPLAY
from pipelines.text import counted, duration, explained, gib, operations

from ..config import EngineConfig, ErasureConfig
from ..configure import method_of
from ..memory import BYTES, count_memory, described, free_bytes, meta_transformer, moments, num_fishers
from ..memory_savings import RESERVE, fit_memory, peak, what_helps
from ..method import NEEDS, Method
from . import watching
from .speed import IDLE, least_fisher_seconds, measured_flops, phase_seconds

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

GONE = "erased before, so neither retained nor replayed; scored by itself, to see whether it comes back"
OFFLINE = "from the published architecture; the hub could not be reached"
PROBED_IMAGES = 2 * 250  # of one attack by the row probe, before and after the swap


def count(
    config: ErasureConfig, protocol: Protocol | None, device: torch.device, *, neighbours: Sequence[int] = ()
) -> dict[str, Any]:
    """Everything countable about a run, as plain JSON types."""
    settings = transformer_config(config.model)
    transformer = meta_transformer(described(settings))
    names, method = load_classes(config.model), method_of(config)
    earlier = earlier_classes(read_provenance(config.model), config.forget_classes)
    removed = (*config.forget_classes, *earlier)
    trainable, vae_weights = size_of(transformer), num_vae_weights(config)

    # Network rows: one image through the transformer once; backward counts as two forwards.
    kind = posterior_kind(config.posterior, latent_shape_of(settings)) if "posterior" in method.needs else None
    rows = erasure_rows(config, method, num_retained=len(names) - len(removed))
    rows["scoring"] = scoring_rows(config, protocol, num_earlier=len(earlier)) if protocol else 0
    flops = phase_flops(rows, config, kind, transformer)
    speed = measured_flops(device)
    memory = count_memory(config, method, settings, vae_weights=vae_weights, device=device) if method.trains else []
    return {
        "erase": [names[index].name for index in config.forget_classes],
        "erased_before": [names[index].name for index in earlier],
        "neighbours": watching.described(config.model, neighbours),
        "warnings": [*again_warnings(config, names), *sibling_warnings(names, removed)],
        "model": config.model,
        "offline": is_known_offline_only(config.model),
        "method": config.method,
        "optimizers": config.engine.optimizers,
        "data": config.data,
        "device": str(device),
        "processes": num_launched(),
        "steps": config.engine.steps if method.trains else 0,
        "needs": sorted(method.needs),
        "posterior": posterior_text(kind, settings),
        "trainable_weights": trainable,
        "rows": rows,
        "tflop": sum(flops.values()) / 1e12,
        "memory": {phase.name: {**phase.parts, "total": phase.total} for phase in memory},
        "disk": disk_bytes(config, method, transformer, vae_weights=vae_weights, num_classes=len(names)),
        "seconds": phase_seconds(flops, speed, fishers=least_fisher_seconds(config, method, transformer, device)),
    }


def phase_flops(
    rows: Mapping[str, int], config: ErasureConfig, kind: PosteriorKind | None, transformer: "DiTTransformer2DModel"
) -> dict[str, float]:
    """Floating-point operations by phase: those of the rows, and of training the method's posterior and the stop's."""
    row_flops = forward_flops(transformer)
    flops = {name: count * row_flops for name, count in rows.items()}
    stops = config.engine.stop_below > 0 and not config.stop_classifier
    for each in {kind, "network" if stops else None} - {None}:
        recipe = recipe_of(each, transformer.config.num_embeds_ada_norm)
        flops["preparation"] += training_flops(each, transformer.config, recipe, row_flops=row_flops)
    return flops


def posterior_text(kind: PosteriorKind | None, transformer_config: Mapping[str, Any]) -> str:
    """What gives the posterior, in words; nothing where none is needed."""
    depth = f"the first {num_read(transformer_config)} of {transformer_config['num_layers']} blocks"
    return {None: "", "network": "a network of its own", "head": f"a linear head on {depth} of the frozen model"}[kind]


def num_vae_weights(config: ErasureConfig) -> int:
    """Weights of the VAE, from its configuration."""
    from diffusers import AutoencoderKL

    return size_of(on_meta(AutoencoderKL, read_json(vae_dir(config.model, config.vae) / "config.json")))


def size_of(network: torch.nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def disk_bytes(
    config: ErasureConfig, method: Method, transformer: torch.nn.Module, *, vae_weights: int, num_classes: int
) -> dict[str, int]:
    """Bytes written: the model in diffusers' layout, the checkpoint while the run lasts, what the cache keeps."""
    trainable = size_of(transformer)
    found = {"model": BYTES * (sum(each.numel() for each in untied_state_dict(transformer).values()) + vae_weights)}
    if method.trains:
        found["checkpoint"] = BYTES * trainable + sum(moments(config.engine, method, trainable).values())
    found["cache"] = num_fishers(method) * BYTES * trainable
    if config.data == REPLAY or "replay" in method.needs:
        latent = 2 * BYTES * transformer.config.in_channels * transformer.config.sample_size**2  # mean and deviation
        found["cache"] += num_classes * config.replay_per_class * latent
    return found


def fit(config: ErasureConfig, device: torch.device, *, fixed: Iterable[str]) -> tuple[ErasureConfig, str]:
    """``--memory auto``: the configuration with the savings that this device needs, and a sentence about them.

    Settings named in ``fixed`` were asked for and stay. The sentence is empty when nothing had to be done.
    """
    method, free = method_of(config), free_bytes(device)
    if not method.trains:
        return config, ""
    settings = transformer_config(config.model)
    sizes = {"vae_weights": num_vae_weights(config), "device": device}
    fitted, chosen = fit_memory(config, method, settings, **sizes, free=free, fixed=frozenset(fixed))
    needed = peak(fitted, method_of(fitted), settings, **sizes)
    has = f"{gib(needed)}, and {device} has {gib(free)} free"
    if needed > RESERVE * free:
        took = f", even with {' '.join(chosen)}" if chosen else ""
        advice = what_helps(fitted, lambda other: peak(other, method, settings, **sizes) <= RESERVE * free)
        return fitted, f"memory: this takes {has}{took}; {advice}"
    return fitted, f"memory: {' '.join(chosen)} chosen to fit: this takes {has}" if chosen else ""


def again_warnings(config: ErasureConfig, names: ClassNames) -> list[str]:
    """One sentence for each class that the model has lost already."""
    gone = set(erased_classes(read_provenance(config.model))) & set(config.forget_classes)
    return [
        f"{names[index].name} was erased from {config.model} before: scores compare with a model that has lost it"
        for index in sorted(gone)
    ]


def sibling_warnings(names: ClassNames, removed_classes: Sequence[int]) -> list[str]:
    """One sentence for each retained class whose images often show an erased one: it would train that back in."""
    return [
        f"{share:.0%} of the images of {names[other].name} ({other}) also show {names[index].name}: retaining it "
        f"trains {names[index].name} back in; --also {other} erases both"
        for index in removed_classes
        for other, share in names.siblings(index)
        if other not in removed_classes
    ]


def tell(config: ErasureConfig, neighbours: Sequence[int]) -> None:
    """On stderr before a run: classes that the model has lost already, the same warnings, the classes to watch."""
    names = load_classes(config.model)
    earlier = earlier_classes(read_provenance(config.model), config.forget_classes)
    if earlier:
        print(f"{', '.join(names[index].name for index in earlier)}: {GONE}", file=sys.stderr)
    for sentence in (*again_warnings(config, names), *sibling_warnings(names, (*config.forget_classes, *earlier))):
        print(f"warning: {sentence}", file=sys.stderr)
    if neighbours:
        watched = map(watching.line_of, watching.described(config.model, neighbours))
        print(f"neighbours: {', '.join(watched)}", file=sys.stderr)


def on_meta(kind: type, config: Mapping[str, Any]) -> torch.nn.Module:
    """A model without storage."""
    with torch.device("meta"):
        return kind.from_config(config)


def erasure_rows(config: ErasureConfig, method: Method, *, num_retained: int) -> dict[str, int]:
    """Forward-equivalent network rows of preparation, forget and retain phases."""
    engine, needs = config.engine, method.needs
    num_timesteps = load_noise_schedule(config.model).num_timesteps
    read = forward_share(config.posterior, transformer_config(config.model)) if "posterior" in needs else 0.0
    frozen = method.target_passes(num_retained) + read
    attack = attack_rows(engine, frozen) / engine.robust_every if engine.robust else 0
    fishers = ("forget_fisher" in needs) + ("data_fisher" in needs) + num_timesteps * ("summed_fisher" in needs)
    replayed = config.data == REPLAY or "replay" in needs
    num_replayed = replayed * config.replay_per_class * (num_retained + len(config.forget_classes))
    if not method.trains:
        forget, retain = 0, method.edit_rows(read_provenance(config.model))
    else:
        forget = int(engine.steps * engine.forget_steps * (engine.forget_batch_size * (3 + frozen) + attack))
        retain = 3 * engine.steps * engine.retain_steps * engine.retain_batch_size
    sampler = SamplerSettings(guidance_scale=config.replay_guidance)
    replay_rows = num_replayed * sampler.network_rows()
    return {
        "preparation": 3 * fishers * config.fisher_samples + replay_rows,
        "forget": forget,
        "retain": retain,
    }


def attack_rows(engine: EngineConfig, frozen: float) -> float:
    """Forward-equivalent rows of a simulated attack on average, and of the forget loss after it, which has targets."""
    weights = (engine.robust_steps + 1) / 2 * engine.forget_batch_size
    label = engine.robust_label_steps * engine.label_attack_size
    rows = {"weights": weights, "label": label, "both": (weights + label) / 2}[engine.robust_target]
    return 3 * rows + (3 + frozen) * engine.forget_batch_size


def scoring_rows(config: ErasureConfig, protocol: Protocol, *, num_earlier: int) -> int:
    """Network rows of scoring original and erased, and of the row probe on its subjects."""
    num_classes = len(config.forget_classes)
    scored = 2 * (protocol.num_forget_images * (num_classes + num_earlier) + protocol.num_retain_images)
    return (scored + count_attacks(num_classes) * PROBED_IMAGES) * protocol.sampler_settings().network_rows()


def forward_flops(transformer: "DiTTransformer2DModel") -> float:
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


def text(plan: Mapping[str, Any]) -> str:
    """The plan for a terminal."""
    rows = ", ".join(f"{name} {value:,}" for name, value in plan["rows"].items())
    alone, device = plan["processes"] == 1, plan["device"]
    where = device if alone else f"{plan['processes']} processes, the first on {device}"
    seconds = ", ".join(f"{name} {duration(value)}" for name, value in plan["seconds"].items() if value)
    total = f"about {duration(sum(plan['seconds'].values()))} on {where}, {IDLE} ({operations(plan['tflop'])})"
    disk = ", ".join(f"{name} {gib(value)}" for name, value in plan["disk"].items() if value)
    return "\n".join(
        [
            f"erase      {', '.join(plan['erase'])} from {plan['model']}",
            *([f"planned    {OFFLINE}"] if plan["offline"] else []),
            *([f"gone       {', '.join(plan['erased_before'])}: {GONE}"] if plan["erased_before"] else []),
            *([f"neighbours {', '.join(map(watching.line_of, plan['neighbours']))}"] if plan["neighbours"] else []),
            f"method     {plan['method']}, {plan['optimizers']} optimizers, {counted(plan['steps'], 'step')}",
            f"data       {plan['data']}",
            f"prepares   {prepared_text(plan)}",
            *([f"posterior  {plan['posterior']}"] if plan["posterior"] else []),
            f"weights    {plan['trainable_weights']:,} trainable",
            f"rows       {rows} (forward passes of one image; backward counted as two)",
            *(f"memory     {memory_text(name, parts)}" for name, parts in plan["memory"].items()),
            f"disk       {disk or 'nothing'}",
            *(f"warning    {sentence}" for sentence in plan["warnings"]),
            f"time       {explained(total, seconds)}",
        ]
    )


def prepared_text(plan: Mapping[str, Any]) -> str:
    """What is made before the first step, and how long that takes."""
    made = [NEEDS[name] for name in plan["needs"]]
    if plan["rows"]["preparation"] and plan["data"] == REPLAY and "replay" not in plan["needs"]:
        made.append(NEEDS["replay"])
    took = plan["seconds"]["preparation"]
    return f"{'; '.join(made) or 'nothing'}{f' (about {duration(took)})' if took else ''}"


def memory_text(name: str, parts: Mapping[str, int]) -> str:
    """One phase: the whole, then its parts from the largest."""
    largest = sorted(((size, part) for part, size in parts.items() if part != "total"), reverse=True)
    return f"{name} {gib(parts['total'])}: {', '.join(f'{part} {gib(size)}' for size, part in largest)}"
