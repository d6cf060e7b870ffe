"""Configuration of an erasure: frozen dataclasses whose fields are the flags, the saved YAML and the documentation."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pipelines.errors import UsageError
from pipelines.files import write_text

from .fields import check_at_least, check_literals, check_share, check_types, flag, option

# Settings of the two kinds of simulated attack.
WEIGHTS_ATTACK = ("robust_steps", "robust_learning_rate", "robust_attacker")
LABEL_ATTACK = ("robust_label_rows", "robust_label_steps", "robust_label_images", "robust_label_life",
                "robust_label_rate")  # fmt: skip
UNREAD_BY_TARGET = {"weights": LABEL_ATTACK, "label": WEIGHTS_ATTACK}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How forget and retain steps alternate and which optimizer takes each (Algorithm 1 of arXiv 2504.15827)."""

    steps: int = option(300, "outer steps; each is forget_steps then retain_steps")
    update: Literal["alternate", "joint", "simultaneous"] = option(
        "alternate", "phases in turn, one summed backward, or both gradients at the same weights"
    )
    optimizers: Literal["dual", "shared"] = option(
        "dual", "separate optimizer states for the two sides, or one for both"
    )
    combine: Literal["sum", "pcgrad", "orthogonal"] = option(
        "sum", "how a simultaneous update with a shared optimizer joins the two gradients"
    )
    forget_steps: int = option(1, "forget phases per outer step")
    retain_steps: int = option(1, "retain phases per outer step")
    forget_learning_rate: float = option(2e-4, "peak learning rate of the forget phase")
    retain_learning_rate: float = option(2e-4, "peak learning rate of the retain phase")
    forget_lr_schedule: Literal["cosine", "constant"] = option("cosine", "decay of the forget learning rate to zero")
    retain_lr_schedule: Literal["cosine", "constant"] = option("cosine", "decay of the retain learning rate to zero")
    forget_weight: float = option(1.0, "scale of the forget loss; constant values other than 1 need a shared optimizer")
    retain_weight: float = option(1.0, "scale of the retain loss; values other than 1 need a shared optimizer")
    forget_weight_schedule: Literal["constant", "cosine"] = option("constant", "decay of the forget weight to zero")
    weight_decay: float = option(0.0, "decoupled weight decay of AdamW on both sides")
    forget_moments: Literal["full", "packed"] = option(
        "full", "packed keeps the forget side's moments inside its mask alone: the same steps in less memory"
    )
    retain_moments: Literal["full", "8bit"] = option(
        "full", "8bit keeps the retain side's moments in 8-bit blocks (torchao): a quarter of their memory"
    )
    forget_clip: float = option(1.0, "clip the forget gradient to this norm; 0 switches clipping off")
    retain_clip: float = option(1.0, "clip the retain gradient to this norm; 0 switches clipping off")
    clip_order: Literal["mask-clip", "clip-mask"] = option(
        "mask-clip", "whether the saliency mask or the clip comes first"
    )
    forget_batch_size: int = option(64, "images in a forget batch")
    retain_batch_size: int = option(64, "images in a retain batch")
    robust: bool = option(False, "unrolled relearning: also take the forget gradient after a simulated attack")
    robust_steps: int = option(10, "longest simulated attack; its length is drawn from 1 to this")
    robust_learning_rate: float = option(2e-4, "learning rate of the simulated attacker")
    robust_target: Literal["weights", "label", "both"] = option(
        "weights", "what simulated attackers train: all weights, rows for the erased label alone, or each in turn"
    )
    robust_label_rows: int = option(16, "simulated attackers of the label, each with a row of its own")
    robust_label_steps: int = option(4, "steps that each of them takes in a forget phase")
    robust_label_images: int = option(4, "images of the class that each of them has in a step")
    robust_label_life: int = option(200, "longest life of one of them in steps, drawn from 1; it ends with a phase")
    robust_label_rate: float = option(0.03, "learning rate of the simulated attackers of the label")
    robust_attacker: Literal["adam", "sgd"] = option("adam", "optimizer of the simulated attacker of the weights")
    robust_every: int = option(1, "simulate an attack at every k-th outer step")
    average_half_life: float = option(
        0.0, "average the weights with this half-life in outer steps; 0 keeps the raw weights"
    )
    divergence_factor: float = option(10.0, "stop when the retain probe loss exceeds this multiple of its start")
    stop_below: float = option(
        0.0, "stop early with forget accuracy at or below this share (see --stop-classifier); 0 never"
    )
    stop_every: int = option(50, "outer steps between two early-stop checks")
    diagnostics: bool = option(
        True, "log update norms and the cosine of the two gradients; takes two more copies of the weights"
    )
    log_every: int = option(10, "outer steps between two log lines")
    checkpoint_every: int = option(50, "outer steps between two checkpoints")
    preview_every: int = option(0, "outer steps between two preview images, original and result included; 0 makes none")

    @property
    def label_attack_size(self) -> int:
        """Images in one step of all attackers of the label."""
        return self.robust_label_rows * self.robust_label_images

    def __post_init__(self) -> None:
        """Refuse values without meaning and combinations in which a flag would have no effect."""
        check_types(self)
        check_literals(self)
        for name in ("steps", "forget_steps", "retain_steps", "forget_batch_size", "retain_batch_size", "robust_steps",
                     "robust_every", "robust_label_rows", "robust_label_steps", "robust_label_images",
                     "robust_label_life", "stop_every", "log_every", "checkpoint_every"):  # fmt: skip
            check_at_least(self, name, 1)
        for name in ("forget_learning_rate", "retain_learning_rate", "forget_weight", "retain_weight", "weight_decay",
                     "forget_clip", "retain_clip", "average_half_life", "stop_below", "preview_every",
                     "robust_learning_rate", "robust_label_rate"):  # fmt: skip
            check_at_least(self, name, 0)
        check_at_least(self, "divergence_factor", 1)
        if self.stop_below > 1:
            raise UsageError(f"--stop-below {self.stop_below} must be a share of at most 1")
        check_combinations(self)
        check_attack(self)


def check_combinations(config: EngineConfig) -> None:
    """Refuse pairs of settings that contradict each other, with the reason."""
    dual = config.optimizers == "dual"
    if dual and config.update == "joint":
        raise UsageError("--update joint takes one step on the summed loss, so it needs --optimizers shared, not dual")
    if dual and config.forget_weight != 1 and config.forget_weight_schedule == "constant":
        raise UsageError(
            f"--forget-weight {config.forget_weight:g} has no effect with --optimizers dual: Adam cancels a constant "
            "scale; use --forget-learning-rate, --forget-weight-schedule cosine or --optimizers shared"
        )
    if dual and config.retain_weight != 1:
        raise UsageError(
            f"--retain-weight {config.retain_weight:g} has no effect with --optimizers dual: Adam cancels a constant "
            "scale; use --retain-learning-rate or --optimizers shared"
        )
    if config.combine != "sum" and (config.update != "simultaneous" or dual):
        raise UsageError(f"--combine {config.combine} needs --update simultaneous with --optimizers shared")
    if config.update != "alternate" and (config.forget_steps, config.retain_steps) != (1, 1):
        raise UsageError(f"--forget-steps and --retain-steps must be 1 with --update {config.update}")
    one_step = config.update == "joint" or (config.update == "simultaneous" and not dual)
    forget_rate = (config.forget_learning_rate, config.forget_lr_schedule)
    if one_step and forget_rate != (config.retain_learning_rate, config.retain_lr_schedule):
        raise UsageError(
            f"--update {config.update} with --optimizers shared takes one step: the forget and retain learning "
            "rates and their schedules must be equal"
        )
    for name in ("forget_moments", "retain_moments"):
        if getattr(config, name) != "full" and not dual:
            raise UsageError(
                f"{flag(name)} {getattr(config, name)} needs --optimizers dual: shared ones have one state"
            )
    if config.forget_moments == "packed" and config.weight_decay:
        raise UsageError(
            f"--forget-moments packed keeps nothing to decay: --weight-decay {config.weight_decay:g} acts on all"
        )
    if config.update == "joint" and config.forget_clip != config.retain_clip:
        raise UsageError("--update joint clips one summed gradient: --forget-clip and --retain-clip must be equal")


def check_attack(config: EngineConfig) -> None:
    """Refuse settings of a simulated attack that is switched off: they would change nothing."""
    for entry in dataclasses.fields(config):
        if entry.name.startswith("robust_") and not config.robust and getattr(config, entry.name) != entry.default:
            raise UsageError(f"{flag(entry.name)} {getattr(config, entry.name)} has no effect without --robust")
    unused = UNREAD_BY_TARGET.get(config.robust_target, ())
    for entry in dataclasses.fields(config):
        if entry.name in unused and getattr(config, entry.name) != entry.default:
            value = f"{flag(entry.name)} {getattr(config, entry.name)}"
            raise UsageError(f"{value} has no effect with --robust-target {config.robust_target}")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Build a configuration dataclass from plain values (``UsageError`` names unknown keys)."""
    known = {entry.name for entry in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(
            f"{unknown[0]!r} is not an option of {kind.__name__}; the options are {', '.join(sorted(known))}"
        )
    return kind(**values)


def config_hash(values: dict[str, Any]) -> str:
    """Twelve hex digits that identify a configuration, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def write_yaml(values: dict[str, Any], path: Path) -> None:
    """Write a configuration for people to read and for ``read_yaml`` to load; the file appears whole or not at all."""
    write_text(yaml.safe_dump(values, sort_keys=False), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration mapping (``UsageError`` when the file is not YAML or not a mapping)."""
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} does not hold a mapping of options")
    return values


# Fields of ErasureConfig that a user sets by their own name.
OWN_OPTIONS = ("seed", "vae", "time_embedding", "precision", "gradient_checkpointing", "retain_images",
               "fisher_samples", "replay_per_class", "replay_guidance", "replay_confidence",
               "posterior", "stop_classifier")  # fmt: skip
# Values that say nothing: a configuration from before the setting existed has the same identity.
UNSAID = {"vae": "", "time_embedding": "own", "precision": "fp32", "gradient_checkpointing": False, "retain_images": 0,
          "replay_guidance": 1.0, "replay_confidence": 0.0, "posterior": "auto", "stop_classifier": "",
          "forget_moments": "full", "retain_moments": "full", "robust_target": "weights", "robust_label_rate": 0.03,
          "robust_label_rows": 16, "robust_label_steps": 4, "robust_label_images": 4,
          "robust_label_life": 200}  # fmt: skip
# Settings that leave the weights as they are.
WATCHING = ("diagnostics", "log_every", "checkpoint_every", "preview_every")


@dataclass(frozen=True, kw_only=True)
class ErasureConfig:
    """One erasure, completely: what decides the resulting weights, and nothing else."""

    model: str = option("digits", "embedded model, diffusers folder, hub id or checkpoint of the original code")
    vae: str = option("", "VAE of an original checkpoint: folder or hub id; stabilityai/sd-vae-ft-ema unless named")
    time_embedding: Literal["own", "diffusers", "original"] = option("own", "frequencies of the timestep embedding")
    forget_classes: tuple[int, ...] = option((), "class indices to erase")
    method: str = option("retain_posterior", "erasure method; `erase methods` lists them")
    method_options: dict[str, Any] = field(default_factory=dict)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: str = option(
        "replay", "image folder, zip, save_to_disk folder, embedded data set, or replay: the model's own samples"
    )
    retain_images: int = option(0, "sample of the data, balanced over all classes, to retain from; 0 takes all")
    precision: Literal["fp32", "bf16"] = option("fp32", "arithmetic of the network; weights and losses stay fp32")
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    replay_per_class: int = option(100, "replayed samples of each class")
    replay_guidance: float = option(1.0, "guidance scale of replayed samples; 1 switches guidance off")
    replay_confidence: float = option(
        0.0, "replay only samples to which the model's own classifier gives their class with at least this probability"
    )
    posterior: Literal["auto", "network", "head"] = option(
        "auto",
        "classifier of noisy latents: a network of its own, a head on the frozen model's blocks, or by latent size",
    )
    fisher_samples: int = option(1000, "single-sample gradients in each Fisher diagonal")
    stop_classifier: str = option(
        "",
        "judge of --stop-below, not the one that scores: timm model, NAME:WEIGHTS or folder; else made from the data",
    )
    seed: int = option(0, "seed of every random draw")

    def __post_init__(self) -> None:
        """Refuse values of another type, and counts below one."""
        check_types(self)
        check_literals(self)
        check_at_least(self, "replay_per_class", 1)
        check_at_least(self, "replay_guidance", 0)
        check_share(self, "replay_confidence", below_one=True)
        check_at_least(self, "retain_images", 0)
        check_at_least(self, "fisher_samples", 1)
        engine, count = self.engine, len(self.forget_classes)
        if engine.robust and engine.robust_target != "weights" and engine.robust_label_rows < count:
            raise UsageError(
                f"--robust-label-rows {engine.robust_label_rows} must be at least {count}: one for a class"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, complete and in order."""
        return to_dict(self)

    def identity(self) -> dict[str, Any]:
        """What decides the resulting weights: settings that only watch the run have no part in it."""
        values = self.as_dict()
        values["engine"] = said({name: each for name, each in values["engine"].items() if name not in WATCHING})
        return said(values)

    @property
    def hash(self) -> str:
        """Twelve hex digits of the identity."""
        return config_hash(self.identity())


def said(values: dict[str, Any]) -> dict[str, Any]:
    """Without the values that say nothing."""
    return {name: value for name, value in values.items() if name not in UNSAID or value != UNSAID[name]}


def erasure_from_dict(values: dict[str, Any]) -> ErasureConfig:
    """The configuration that ``as_dict`` gave, as read from a run directory (``UsageError`` for unknown keys)."""
    values = dict(values)
    values["forget_classes"] = tuple(values.get("forget_classes", ()))
    values["engine"] = from_dict(EngineConfig, values.get("engine", {}))
    return from_dict(ErasureConfig, values)
