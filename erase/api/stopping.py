"""The early stop: quick scores of the weights in between, by a judge that has no part in the final scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from eval.features import fingerprinted_name
from eval.protocol import Protocol
from pipelines.errors import UsageError
from pipelines.model import DiT
from pipelines.posterior import LatentClassifier, PosteriorRecipe, train_posterior
from pipelines.provenance import retained_classes
from pipelines.sampler import SamplerSettings, sample_latents

from ..config import ErasureConfig
from ..erasure import images_of, load_original
from ..rundir import cache_dir
from .judging import CLASSIFIERS, Judges, check_other_classifier, load_given_classifier, protocol_classifier

FLAG = "--stop-classifier"
NUM_IMAGES = 100  # of either side
SAMPLER = SamplerSettings(sampler="dpm-solver++", num_inference_steps=8)
LEAST_RECOGNISED = 0.25  # of the original model's images of the erased classes: less says little when it falls

Judge = Callable[[DiT, Tensor], Tensor]  # (model, its latents (N, C, H, W)) to the classes (N,) seen in them


class EarlyStopScore:
    """Forget and retain accuracy from a few quick samples, the same seeds at every check."""

    def __init__(self, judge: Judge, forget_classes: tuple[int, ...]) -> None:
        self.judge, self.forget_classes = judge, forget_classes

    def __call__(self, model: DiT) -> dict[str, float]:
        """``forget_accuracy`` and ``retain_accuracy`` of the current weights, both in [0, 1]."""
        retained = retained_classes(model.provenance, self.forget_classes, num_classes=model.num_classes)
        shares = {}
        for side, labels in (("forget", self.forget_classes), ("retain", retained)):
            wanted = torch.tensor([labels[index % len(labels)] for index in range(NUM_IMAGES)])
            predicted = self.judge(model, sample_latents(model, wanted, range(NUM_IMAGES), SAMPLER))
            shares[f"{side}_accuracy"] = (predicted == wanted).float().mean().item()
        return shares


def early_stop_score(
    config: ErasureConfig, protocol: Protocol | None, judges: Judges, *, device: torch.device, progress: bool
) -> EarlyStopScore:
    """The score of a run's early stop, its judge held to the original model's images before anything is erased.

    Raises ``UsageError`` for a judge that is the one that scores the run, or that hardly recognises the classes.
    """
    original = load_original(config, device=device)
    if config.stop_classifier:
        judge = named_judge(original, config, protocol, judges)
    else:
        judge = latent_judge(original, config, progress=progress)
    score = EarlyStopScore(judge, config.forget_classes)
    recognised = score(original)["forget_accuracy"]
    if recognised <= max(LEAST_RECOGNISED, config.engine.stop_below):
        whose = f"{FLAG} {config.stop_classifier}" if config.stop_classifier else "the classifier made from the data"
        raise UsageError(
            f"--stop-below {config.engine.stop_below:g}: {whose} recognises the classes in only {recognised:.0%} of "
            f"quick samples of the original model, so it cannot tell when they are gone; name another with {FLAG}: "
            f"{CLASSIFIERS}"
        )
    return score


def named_judge(original: DiT, config: ErasureConfig, protocol: Protocol | None, judges: Judges) -> Judge:
    """The classifier that the configuration names, which must not be the one that scores (``UsageError``)."""
    given = config.stop_classifier
    classifier = load_given_classifier(given, flag=FLAG, num_classes=original.num_classes, device=original.device)
    if protocol is not None:
        scoring = fingerprinted_name(protocol_classifier(original, protocol, judges))
        check_other_classifier(fingerprinted_name(classifier), scoring, given=given, flag=FLAG)
    return lambda model, latents: classifier.predict(model.decode(latents))


def latent_judge(original: DiT, config: ErasureConfig, *, progress: bool) -> Judge:
    """The posterior of the run's data at timestep 0, trained once and kept in the cache."""
    latents, _ = images_of(original, config, config.data, cache_dir=cache_dir(), progress=progress)
    network = train_posterior(
        original, latents, PosteriorRecipe(), seed=config.seed, cache_dir=cache_dir(), progress=progress
    )
    return lambda _, latents: LatentClassifier(network).predict(latents)
