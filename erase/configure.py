"""From a request in words to a complete configuration, checked as far as configurations alone allow."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import UsageError
from pipelines.model_source import load_classes, read_provenance
from pipelines.provenance import earlier_classes
from pipelines.replay import check_confidence
from pipelines.sources import REPLAY, check_source, default_source
from pipelines.text import did_you_mean

from .config import OWN_OPTIONS, UNREAD_BY_TARGET, EngineConfig, ErasureConfig, from_dict, to_dict
from .fields import flag
from .method import Method, method_class

DEFAULT_METHOD = "retain_posterior"
PHASES = ("forget_steps", "retain_steps")  # of an outer step, when they alternate
NO_STOP = "without --stop-below nothing stops early"
# Other flags of `erase run`.
COMMON = ("model", "method", "preset", "data", "memory", "protocol", "reference", "classifier", "inception",
          "neighbours", "also", "gate", "retrained", "log_to", "output", "device", "json", "dry_run")  # fmt: skip


def configure(
    model: str,
    classes: Sequence[str | int],
    *,
    method: str = DEFAULT_METHOD,
    preset: str = "default",
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ErasureConfig:
    """Resolve a request into a complete configuration, reading configurations only.

    ``options`` hold engine and method settings by field name; they go before the preset's (``default`` or ``paper``),
    those before the method's defaults. Raises ``UsageError`` for an unknown class, method or option and
    ``MissingError`` for a model or data that are not there.
    """
    kind = method_class(method)
    check_preset(preset, kind, method)
    forget_classes = resolved_classes(model, classes)
    data = data or default_source(model)
    check_source(data)

    settings = chosen_settings(kind.defaults, kind.paper if preset == "paper" else {}, options or {})
    own = {name: settings.pop(name) for name in OWN_OPTIONS if name in settings}
    engine, method_options = split_options(kind, method, settings)
    config = ErasureConfig(
        model=model,
        forget_classes=forget_classes,
        method=method,
        method_options=to_dict(from_dict(kind, method_options)),
        engine=from_dict(EngineConfig, engine),
        data=data,
        **own,
    )
    check_effects(config, options or {})
    check_confidence(model, config.replay_confidence)
    return config


def chosen_settings(
    defaults: Mapping[str, Any], preset: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options before the preset's settings, those before defaults; of both only what the others let have an effect."""
    settings = {**defaults, **preset, **options}
    unread = without_effect(settings)
    return {name: value for name, value in settings.items() if name not in unread or name in options}


def without_effect(settings: Mapping[str, Any]) -> set[str]:
    """Settings of an attack that is off or of another target, and numbers of phases that do not alternate."""
    attack = [name for name in settings if name.startswith("robust_")]
    target = settings.get("robust_target", EngineConfig.robust_target)
    unread = UNREAD_BY_TARGET.get(target, ()) if settings.get("robust") else attack
    phases = () if settings.get("update", EngineConfig.update) == "alternate" else PHASES
    return {*unread, *phases}


def resolved_classes(model: str, classes: Sequence[str | int]) -> tuple[int, ...]:
    """The indices of the named classes in order (``UsageError`` for none, and where none would be retained)."""
    names = load_classes(model)
    try:
        forget_classes = tuple(sorted({names.resolve(query) for query in classes}))
    except UsageError as error:
        raise type(error)(f"--model {model}: {error}") from error
    if not forget_classes:
        raise UsageError("no class to erase was named")
    earlier = earlier_classes(read_provenance(model), forget_classes)
    if len(forget_classes) + len(earlier) == len(names):
        gone = " or was erased before" if earlier else ""
        raise UsageError(f"every class of the model was named{gone}: at least one must be retained")
    return forget_classes


def check_effects(config: ErasureConfig, options: Mapping[str, Any]) -> None:
    """Refuse an option that was given and that nothing of this configuration reads (``UsageError``)."""
    method = method_of(config)
    if config.engine.robust_target != "weights" and not method.defends_labels:
        raise UsageError(
            f"--robust-target {config.engine.robust_target}: the forget loss of method {config.method} says nothing "
            "under the label row of an attacker; use --robust-target weights"
        )
    reasons = {}
    if not method.trains:
        useless = (*to_dict(config.engine), "precision", "gradient_checkpointing")
        reasons = dict.fromkeys(useless, f"method {config.method} takes no steps of the engine")
    if not config.engine.stop_below:
        reasons |= {name: reasons.get(name, NO_STOP) for name in ("stop_every", "stop_classifier")}
    if not any(need.endswith("fisher") for need in method.needs):
        reasons["fisher_samples"] = f"method {config.method} needs no Fisher diagonal"
    if "posterior" not in method.needs:
        reasons["posterior"] = f"method {config.method} needs no posterior"
    if method.mask_density == 1:
        reasons.setdefault("forget_moments", f"method {config.method} has no saliency mask in the forget phase here")
    if config.data == REPLAY or "replay" in method.needs:
        reasons["retain_images"] = "the retain set is replay, whose size is --replay-per-class"
    if config.data != REPLAY and "replay" not in method.needs:
        useless = ("replay_per_class", "replay_guidance", "replay_confidence")
        reasons |= dict.fromkeys(useless, f"--data {config.data} is not {REPLAY}")
    for name in options:
        if name in reasons:
            raise UsageError(f"{flag(name)} {options[name]} has no effect: {reasons[name]}")


def check_preset(preset: str, kind: type[Method], method: str) -> None:
    """Refuse an unknown preset, and ``paper`` for a method without published settings (``UsageError``)."""
    if preset not in ("default", "paper"):
        raise UsageError(f"--preset {preset!r} is not one of default, paper")
    if preset == "paper" and not kind.paper:
        raise UsageError(f"--preset paper: method {method} has no published settings for DiT; use --preset default")


def split_options(
    kind: type[Method], method: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Engine settings and method settings; an option of neither raises ``UsageError`` with those that exist."""
    engine_fields = {entry.name for entry in dataclasses.fields(EngineConfig)}
    method_fields = {entry.name for entry in dataclasses.fields(kind)}
    for name in settings:
        if name not in engine_fields | method_fields:
            raise UsageError(unknown_option(name, method, method_fields, engine_fields))
    engine = {name: value for name, value in settings.items() if name in engine_fields}
    return engine, {name: value for name, value in settings.items() if name in method_fields}


def unknown_option(name: str, method: str, method_fields: set[str], engine_fields: set[str]) -> str:
    """One sentence about an option that does not exist: what it may have meant, and what the method has."""
    meant = did_you_mean(name, [*method_fields, *engine_fields, *OWN_OPTIONS, *COMMON], typed=flag)
    flags = ", ".join(map(flag, sorted(method_fields))) or "none"
    return f"{flag(name)} is no option of `erase run` nor of method {method}; {meant}the method's own are {flags}"


def method_of(config: ErasureConfig) -> Method:
    """The configured method."""
    return from_dict(method_class(config.method), config.method_options)
