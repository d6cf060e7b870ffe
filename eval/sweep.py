"""Forget accuracy away from the protocol: other guidance, samplers, step counts, weight precisions, another classifier.

A class that comes back under any of these was avoided under one setting rather than erased. Each row changes one thing
of the protocol and draws the first images of its forget classes, the same seeds in every row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.diffusion import NoiseSchedule
from pipelines.generate import generate
from pipelines.model import DiT
from pipelines.sampler import SamplerSettings, check_steps

from .evaluate import feed, results
from .features import Scorer
from .metric import Context
from .plan import forget_requests
from .protocol import Protocol
from .words import interval, number

Weights = Literal["float32", "bfloat16", "int8"]
METRIC = "forget_accuracy"
NUM_IMAGES = 100  # of each forget class and condition
GUIDANCE_SCALES = (1.0, 1.5, 4.0, 7.5)
SAMPLERS = (("dpm-solver++", 10), ("dpm-solver++", 20), ("dpm-solver++", 50), ("ddim", 20), ("ddim", 50),
            ("ddpm", 50), ("ddpm", 250))  # fmt: skip
INT8_MAX = 127
OTHERS = ("forget_accuracy_top5", "forget_probability")  # beside the metric, where they are defined
NOT_DEFINED = {"value": None}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way to ask both models for the class, and who looks at the answer."""

    name: str
    settings: SamplerSettings
    weights: Weights = "float32"
    second: bool = False  # whether the second classifier looks instead of the protocol's


def conditions(protocol: Protocol, schedule: NoiseSchedule, *, second: bool) -> list[Condition]:
    """The protocol itself, then everything that differs from it in one thing.

    Raises ``UsageError`` for a noise schedule that a sampler's number of steps does not fit.
    """
    own = protocol.sampler_settings()
    found = [Condition(name=f"as scored ({described(own)})", settings=own)]
    found += [Condition(name="second classifier", settings=own, second=True)] if second else []
    for scale in GUIDANCE_SCALES:
        settings = protocol.unguided().sampler_settings() if scale == 1 else replace(own, guidance_scale=scale)
        found.append(Condition(name=f"guidance {scale:g}", settings=settings))
    for sampler, steps in SAMPLERS:
        settings = replace(own, sampler=sampler, num_inference_steps=steps)
        found.append(Condition(name=f"{sampler}, {steps} steps", settings=settings))
    found.append(Condition(name="arithmetic in bf16", settings=replace(own, precision="bf16")))
    found.append(Condition(name="weights in bf16", settings=own, weights="bfloat16"))
    found.append(Condition(name="weights in int8", settings=own, weights="int8"))

    for condition in found:
        check_steps(schedule, condition.settings)
    return [found[0], *(each for each in found[1:] if unlike(each, found[0]))]


def described(settings: SamplerSettings) -> str:
    """Sampler, steps and guidance in a few words."""
    words = f"{settings.sampler}, {settings.num_inference_steps} steps, guidance {settings.guidance_scale:g}"
    interval = (settings.guidance_start, settings.guidance_end)
    return words if interval == (0, 1) else f"{words} from {interval[0]:g} to {interval[1]:g} of the steps"


def unlike(one: Condition, other: Condition) -> bool:
    """Whether two conditions differ in more than their names."""
    return replace(one, name=other.name) != other


def sweep_rows(
    models: Mapping[str, DiT],
    *,
    forget_classes: Sequence[int],
    protocol: Protocol,
    scorer: Scorer,
    second: Scorer | None = None,
    num_images: int = NUM_IMAGES,
    known: Sequence[Mapping[str, Any]] = (),
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield one row for each condition: its settings, and for every model the values of ``forget_accuracy``.

    Rows in ``known`` that were measured alike are handed back as they are, so that a sweep that was cut short goes on.
    Raises ``UsageError`` for a model whose noise schedule the samplers do not fit.
    """
    original = models["original"]
    context = Context(forget_classes=tuple(forget_classes), num_classes=original.num_classes, seed=protocol.first_seed)
    requests = forget_requests(protocol.first_seed, forget_classes, num_images=num_images)
    wanted = conditions(protocol, original.noise_schedule, second=second is not None)
    for place, condition in enumerate(wanted, start=1):
        judge = second if condition.second else scorer
        row = described_row(condition, judge, forget_classes=forget_classes, protocol=protocol, num_images=num_images)
        measured = [each for each in known if row.items() <= each.items()]
        if measured:
            yield dict(measured[0])
            continue
        for name, model in models.items():
            bar = f"sweep {place}/{len(wanted)}, {condition.name}, {name}" if progress else ""
            drawn = generate(in_precision(model, condition.weights), requests, condition.settings, progress=bar)
            row[name] = results(feed([METRIC], drawn, scorer=judge, context=context))
        yield row


def described_row(
    condition: Condition, scorer: Scorer, *, forget_classes: Sequence[int], protocol: Protocol, num_images: int
) -> dict[str, Any]:
    """Everything that decides a row's values beside the models, as plain JSON types."""
    return {
        "condition": condition.name,
        "settings": asdict(condition.settings),
        "weights": condition.weights,
        "classifier": scorer.name,
        "forget_classes": list(forget_classes),
        "num_images": num_images,
        "first_seed": protocol.first_seed,
    }


def in_precision(model: DiT, weights: Weights) -> DiT:
    """The model itself, or a copy whose transformer's weights hold what another precision can hold.

    The arithmetic stays float32. ``bfloat16`` rounds every weight; ``int8`` rounds every weight of two or more
    dimensions as ``as_int8`` does and leaves biases and norms. The VAE stays as it is.
    """
    if weights == "float32":
        return model
    rounded: Callable[[Tensor], Tensor] = as_bfloat16 if weights == "bfloat16" else as_int8
    copied = model.frozen_copy()
    with torch.no_grad():
        for parameter in copied.transformer.parameters():
            parameter.copy_(rounded(parameter))
    return copied


def as_bfloat16(weight: Tensor) -> Tensor:
    """A weight rounded to bfloat16, in its own type."""
    return weight.to(torch.bfloat16).to(weight.dtype)


def as_int8(weight: Tensor) -> Tensor:
    """A weight rounded to whole multiples, -127 to 127, of a step for each output channel: its largest entry / 127.

    Symmetric, so that 0 stays 0; a label table is rounded row by row, and what has one dimension is left as it is.
    """
    if weight.ndim < 2:
        return weight
    step = weight.abs().flatten(1).amax(1).div(INT8_MAX).clamp(min=torch.finfo(weight.dtype).tiny)
    step = step.view(-1, *[1] * (weight.ndim - 1))
    return (weight / step).round() * step


def worst(rows: Sequence[Mapping[str, Any]], model: str = "erased") -> Mapping[str, Any]:
    """The row under which a model is recognised most often; of equal ones the first.

    The largest of several noisy shares lies above the true largest on average: read it with its interval.
    """
    return max(rows, key=lambda row: row[model][METRIC]["value"])


def outcome(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a sweep says, in one sentence."""
    row = worst(rows)
    value = row["erased"][METRIC]
    return (
        f"The highest forget accuracy under any of these {len(rows)} conditions is {number(value['value'], 'share')} "
        f"(95 % interval {interval(value, 'share')}, {value['n']:,} images), at {row['condition']}."
    )


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row in words: the erased model's values with the interval, the original's, and whether it is the worst.

    Where all are equal none is.
    """
    found, highest = [], worst(rows)
    unlike = len({row["erased"][METRIC]["value"] for row in rows}) > 1
    for row in rows:
        erased, original = (row[model][METRIC] for model in ("erased", "original"))
        others = (row["erased"].get(key, NOT_DEFINED)["value"] for key in OTHERS)
        found.append(
            {
                "condition": row["condition"],
                "erased": number(erased["value"], "share"),
                "interval": interval(erased, "share"),
                "others": ["-" if value is None else number(value, "share") for value in others],
                "original": number(original["value"], "share"),
                "worst": unlike and row is highest,
            }
        )
    return found
