"""Work on data ahead of runs: latents in the cache, statistics of real images."""

from pathlib import Path
from typing import Any

from eval.protocol import named
from eval.reference import observe, save_observations
from pipelines.errors import MissingError, UsageError
from pipelines.files import check_output
from pipelines.model import load
from pipelines.model_source import check_model, classifier_dir
from pipelines.replay import Replay
from pipelines.sources import REPLAY, check_source, held_out_images, training_latents

from ..rundir import cache_dir
from .devices import pick_device
from .judging import Judges, check_classifier, check_inception, protocol_scorer


def cache_latents(source: str, model: str, *, vae: str = "", device: str = "auto") -> dict[str, Any]:
    """Encode every image of a source into the cache; returns what is there now as plain JSON types.

    Raises ``UsageError`` for replay, whose samples belong to a seed and a count of one run.
    """
    if source == REPLAY:
        raise UsageError(f"--data {REPLAY} is sampled by the first run that needs it; name a folder or an archive")
    check_source(source)
    check_model(model, vae=vae)
    bundle = load(model, vae=vae, device=pick_device(device))
    latents = training_latents(bundle, source, replay=Replay(), seed=0, cache_dir=cache_dir(), progress=True)
    counts = latents.class_labels.bincount(minlength=bundle.num_classes)
    return {
        "source": source,
        "images": len(latents),
        "classes": int((counts > 0).sum()),
        "smallest_class": int(counts[counts > 0].min()),
        "latent_shape": list(latents.shape[2:]),
        "copies": latents.shape[1],
        "cache": str(cache_dir()),
    }


def write_statistics(
    source: str, model: str, path: Path, *, protocol: str, judges: Judges, device: str = "auto"
) -> dict[str, Any]:
    """Observe real images under a protocol and write their statistics; returns the file's facts.

    Raises ``UsageError`` and ``MissingError`` as the scoring of a run does.
    """
    asked = named(protocol)
    check_output(path, suffixes=(".npz",))
    if not Path(source).exists():
        raise MissingError(f"{source} does not exist; give a folder or an archive of real images by class")
    check_classifier(asked, model, judges, own=classifier_dir(model) is not None)
    check_inception(asked, judges)
    bundle = load(model, device=pick_device(device))
    scorer = protocol_scorer(bundle, asked, judges)
    observations = observe(held_out_images(bundle, source), scorer=scorer)
    facts = {
        "description": f"{source} at {bundle.image_size} pixels",
        "classifier": scorer.name,
        "accuracy": float((observations.predicted == observations.class_labels).float().mean()),
    }
    names = bundle.classes.labels
    save_observations(observations, path, classifier=facts["classifier"], class_names=names, meta=facts)
    return {"n": len(observations.class_labels), "feature_space": scorer.feature_space, **facts}
