"""The model's own samples as latents: as many of every class, on request only those that its classifier recognises."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from .classes import ClassNames
from .classifier import Classifier, load_classifier
from .delta import weights_sha256
from .errors import UsageError
from .latents import Latents, Part, keep_part, kept_part, new_part, part_path
from .model import DiT
from .model_source import classifier_dir
from .progress import bar_of, count_kept
from .randomness import stream_seed
from .ranks import everywhere, in_parts, is_first
from .sampler import SamplerSettings, sample_latents
from .tensor_file import tensors_sha256

MOST_TRIES = 20  # samples drawn of a class for each that is wanted, before it is given up
MOST_NAMED = 20  # classes in the line about rejected samples


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Which samples are drawn, and which of them count."""

    per_class: int = 100
    guidance: float = 1.0  # 1 = off
    without: tuple[int, ...] = ()  # classes of which none is drawn
    confidence: float = 0.0  # least probability of the class by the model's own classifier; 0 takes every sample


def check_confidence(source: str, confidence: float) -> None:
    """Refuse a bound on the classifier's confidence for a model without classifier (``UsageError``); loads nothing."""
    if confidence and classifier_dir(source) is None:
        raise UsageError(f"--replay-confidence {confidence:g} needs a classifier, and model {source} ships none")


def replay_latents(
    model: DiT, replay: Replay, *, seed: int, cache_dir: Path | None, progress: bool, batch_size: int = 250
) -> Latents:
    """The model's own samples of every class but ``replay.without``, as latents without posterior noise.

    Try number i is of class i mod K and of a seed that depends on i alone; a class whose samples are rejected is tried
    on, up to ``MOST_TRIES`` times for each sample wanted (``UsageError``). Batches that are in the cache are not made
    again, so that a stopped replay goes on where it was.
    """
    settings = SamplerSettings(guidance_scale=replay.guidance, guided_channels=model.guided_channels)
    classifier = own_classifier(model) if replay.confidence else None
    folder = None if cache_dir is None else cache_dir / f"replay-{cache_key(model, replay, settings, classifier, seed)}"
    parts, tried = [], torch.zeros(model.num_classes, dtype=torch.int64)
    kept = tried.clone()

    wanted = (model.num_classes - len(replay.without)) * replay.per_class
    with bar_of(wanted, "replay", unit="image", shown=progress, late=True) as bar:
        while tries := next_tries(tried, kept, replay, limit=batch_size):
            path = part_path(folder, len(parts))
            part = kept_part(path, asked=tries)
            if everywhere(part is not None):
                count_kept(bar, len(part))
            else:
                part = sampled_part(model, tries, settings, classifier, replay, seed)
                if is_first():
                    part = keep_part(part, path, asked=tries)
                bar.update(len(part))
            parts.append(part)
            tried += (torch.tensor(tries) % model.num_classes).bincount(minlength=model.num_classes)
            kept += part.class_labels.bincount(minlength=model.num_classes)
            check_found(tried, kept, replay, model.classes)
    if progress and replay.confidence:
        tell_rejected(tried - kept, tried, replay, model.classes)
    return Latents.of(parts)


def own_classifier(model: DiT) -> Classifier:
    """The classifier that ships with a model (``UsageError`` without)."""
    if model.classifier_dir is None:
        raise UsageError("--replay-confidence needs a classifier, and this model ships none")
    return load_classifier(model.classifier_dir, device=model.device)


def next_tries(tried: Tensor, kept: Tensor, replay: Replay, *, limit: int) -> list[int]:
    """The next tries by rising number, at most ``limit``: of each class as many as it lacks, while it may be tried."""
    num_classes, most = len(tried), MOST_TRIES * replay.per_class
    ends = (tried + replay.per_class - kept).clamp(max=most)
    ends[list(replay.without)] = 0
    turns = tried[:, None] + torch.arange(replay.per_class)
    numbers = torch.arange(num_classes)[:, None] + num_classes * turns
    return numbers[turns < ends[:, None]].sort().values[:limit].tolist()


def sampled_part(
    model: DiT,
    tries: Sequence[int],
    settings: SamplerSettings,
    classifier: Classifier | None,
    replay: Replay,
    seed: int,
) -> Part:
    """The samples of some tries, without those that the classifier does not recognise."""
    class_labels = torch.tensor(tries) % model.num_classes
    seeds = [stream_seed(seed, "replay", number) for number in tries]

    def sample(chosen: Tensor) -> Tensor:
        return sample_latents(model, class_labels[chosen], [seeds[place] for place in chosen], settings)

    latents = in_parts(sample, torch.arange(len(tries)))
    if classifier is not None:
        logits, _ = classifier.logits_and_features(model.decode(latents))
        sure = logits.softmax(1)[torch.arange(len(tries)), class_labels] >= replay.confidence
        latents, class_labels = latents[sure.to(latents.device)], class_labels[sure]
    mean = latents.cpu()[:, None]
    return new_part(mean, torch.zeros_like(mean), class_labels)


def check_found(tried: Tensor, kept: Tensor, replay: Replay, names: ClassNames) -> None:
    """Give up when a class has had all its tries and still lacks samples (``UsageError``)."""
    given_up = ((kept < replay.per_class) & (tried >= MOST_TRIES * replay.per_class)).nonzero()[:, 0].tolist()
    if given_up:
        found = int(kept[given_up[0]])
        raise UsageError(
            f"--replay-confidence {replay.confidence:g}: only {found} of {int(tried[given_up[0]])} samples of class "
            f"{given_up[0]} ({names[given_up[0]].name}) reach it and {replay.per_class} are wanted; lower it, or raise "
            "--replay-guidance"
        )


def tell_rejected(rejected: Tensor, tried: Tensor, replay: Replay, names: ClassNames) -> None:
    """Say on stderr how many samples of each class the classifier did not recognise, the most first."""
    order = [index for index in rejected.argsort(descending=True, stable=True).tolist() if rejected[index]]
    shown = [f"{names[index].name} {rejected[index]} of {tried[index]}" for index in order[:MOST_NAMED]]
    if order[MOST_NAMED:]:
        shown.append(f"and {len(order) - MOST_NAMED} more classes at most {rejected[order[MOST_NAMED]]} each")
    each = f" ({', '.join(shown)})" if shown else ""
    total = f"{rejected.sum()} of {tried.sum()}"
    print(f"replay: {total} samples rejected below confidence {replay.confidence:g}{each}", file=sys.stderr)


def cache_key(model: DiT, replay: Replay, settings: SamplerSettings, classifier: Classifier | None, seed: int) -> str:
    """Twelve hex digits for everything that the samples depend on, and for what judges them."""
    facts = [vars(replay), vars(settings), seed, model.behaviour(), weights_sha256(model.transformer)]
    if classifier is not None:
        facts += [tensors_sha256(network.state_dict()) for network in (classifier.network, model.vae)]
    return sha256(json.dumps(facts).encode()).hexdigest()[:12]
