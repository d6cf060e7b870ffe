"""How good the posterior of ``retain_posterior`` is, and how good it has to be, on the digits model.

python -m benchmarks.posterior_quality    about fifteen minutes on one core; what was made before is not made again

Network and head, trained on real latents and on replay, are held to latents of images that neither they nor the model
saw: accuracy and likelihood by timestep, the temperature that would suit them, and the identity
e_null = sum_c p(c | x_t) e(x_t | c), whose error also stands for uniform shares and for the true label alone. Then each
erases one class by the short erasure of ``erase demo``, with its own source as data; so that everything rests on the
posterior, the erased label becomes its mixture too, and beside them stands an erasure by uniform shares.
"""

import argparse
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.erasures import ORIGINAL, RESULTS, Job, Row, run_jobs
from erase.cli.demo import QUICK
from erase.rundir import cache_dir, environment
from pipelines.diffusion import Noised, draw_noise
from pipelines.files import write_json
from pipelines.latents import encode_images
from pipelines.model import DiT, load
from pipelines.posterior import Posterior
from pipelines.posterior_head import PosteriorKind, make_posterior, recipe_of
from pipelines.randomness import generator
from pipelines.replay import Replay
from pipelines.sources import digits_for, training_latents

MODEL, FORGET_CLASS, SEED = "digits", 3, 0
KINDS: tuple[PosteriorKind, ...] = ("network", "head")
SOURCES = ("digits", "replay")
UNIFORM = "uniform shares"
ALSO = ("forget_precision",)  # whether images under the erased label look like a digit
NUM_BINS = 5  # of timesteps
DRAWS = 10  # noised latents of each held-out image
IDENTITY_DRAWS = 1000  # that the identity is checked on: each takes a forward pass under every label
TEMPERATURES = torch.linspace(-1, 1, 201).exp()


class Uniform(Posterior):
    """The same share of every class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Logits (B, num_classes) for noisy latents (B, C, H, W)."""
        return noisy_latents.new_zeros(len(noisy_latents), self.num_classes)


@dataclass(frozen=True, kw_only=True)
class SourcedJob(Job):
    """An erasure with data that are named."""

    data: str
    uniform: bool = False  # in the place of a posterior: equal shares, whatever the noisy latents show

    def erase(self, config: Any) -> Any:
        """Original and erased model; the product has no uniform posterior, which would be of no use."""
        if not self.uniform:
            return super().erase(config)
        with patch("erase.erasure.make_posterior", lambda model, *_, **__: Uniform(model.num_classes)):
            return super().erase(config)

    @property
    def source(self) -> str:
        """What is named."""
        return self.data


def posterior_of(model: DiT, kind: PosteriorKind, source: str) -> Posterior:
    """The posterior that an erasure would use, from the same cache."""
    latents = training_latents(model, source, replay=Replay(), seed=SEED, cache_dir=cache_dir(), progress=False)
    return make_posterior(
        model, latents, kind, recipe_of(kind, model.num_classes), seed=SEED, cache_dir=cache_dir(), progress=True
    )


def held_out(model: DiT) -> Noised:
    """Latents of the held-out digits, each at several random timesteps."""
    latents = encode_images(model, digits_for(model, "held-out"), cache_dir=cache_dir(), flip=False)
    draws = generator(SEED, "posterior quality")
    order = torch.randperm(len(latents), generator=draws).repeat(DRAWS)
    return draw_noise(
        model.noise_schedule, latents.draw(order, generator=draws), latents.class_labels[order], generator=draws
    )


def by_bin(values: Tensor, noised: Noised, num_timesteps: int) -> list[float]:
    """Mean of values (B,) in each bin of timesteps, the least noisy first."""
    bins = noised.timesteps * NUM_BINS // num_timesteps
    return [values[bins == number].mean().item() for number in range(NUM_BINS)]


def calibration(logits: Tensor, noised: Noised) -> dict[str, float]:
    """The temperature of least loss on one half of the images, and the loss on the other without and with it."""
    fitted = torch.arange(len(logits)) % 2 == 0  # images follow one another in the same order in each of the draws
    losses = torch.stack([cross_entropy(logits[fitted] / each, noised.class_labels[fitted]) for each in TEMPERATURES])
    temperature = TEMPERATURES[losses.argmin()]
    rest, labels = logits[~fitted], noised.class_labels[~fitted]
    return {
        "temperature": temperature.item(),
        "nll": cross_entropy(rest, labels).item(),
        "nll_with_temperature": cross_entropy(rest / temperature, labels).item(),
    }


@torch.no_grad()
def predictions(model: DiT, noised: Noised) -> Tensor:
    """Noise predictions (num_classes + 1, B, C, H, W) under every label, the null label last."""
    labels = range(model.num_classes + 1)
    outputs = [
        model.predict(noised.noisy_latents, noised.timesteps, torch.full_like(noised.timesteps, label))
        for label in labels
    ]
    return torch.stack([output.chunk(2, dim=1)[0] for output in outputs])


def identity_error(shares: Tensor, noise: Tensor) -> Tensor:
    """Mean square (B,) of e_null - sum_c p_c e_c for shares (B, num_classes)."""
    mixed = torch.einsum("bk,kbchw->bchw", shares, noise[:-1])
    return (noise[-1] - mixed).square().flatten(1).mean(dim=1)


def quality(model: DiT) -> dict[str, Any]:
    """Accuracy, likelihood, temperature and identity of every posterior, and the yardsticks of the identity."""
    noised, total = held_out(model), model.noise_schedule.num_timesteps
    few = Noised(*(tensor[:IDENTITY_DRAWS] for tensor in vars(noised).values()))
    noise, count = predictions(model, few), model.num_classes
    uniform = by_bin(identity_error(torch.full((IDENTITY_DRAWS, count), 1 / count), noise), few, total)
    yardsticks = {
        "null_prediction": by_bin(noise[-1].square().flatten(1).mean(1), few, total),
        "uniform": uniform,
        "true_label": by_bin(identity_error(one_hot(few.class_labels, count).float(), noise), few, total),
    }
    found = {}
    for kind in KINDS:
        for source in SOURCES:
            posterior = posterior_of(model, kind, source)
            with torch.no_grad():
                logits = posterior(noised.noisy_latents, noised.timesteps)
            losses = cross_entropy(logits, noised.class_labels, reduction="none")
            error = by_bin(identity_error(logits[:IDENTITY_DRAWS].softmax(1), noise), few, total)
            found[f"{kind} on {source}"] = {
                "accuracy": by_bin((logits.argmax(1) == noised.class_labels).float(), noised, total),
                "nll": by_bin(losses, noised, total),
                "calibration": calibration(logits, noised),
                "identity": error,
                "share_of_uniform": [each / worst for each, worst in zip(error, uniform, strict=True)],
            }
    return {"yardsticks": yardsticks, "posteriors": found}


def erasures(workers: int) -> dict[str, Row]:
    """The original's scores, and those of an erasure under each posterior."""
    jobs: dict[str, Job] = {
        ORIGINAL: SourcedJob(method=ORIGINAL, forget_class=FORGET_CLASS, data=SOURCES[0], also=ALSO)
    }
    for kind in KINDS:
        for source in SOURCES:
            jobs[f"{kind} on {source}"] = erasure(kind, source)
    jobs[UNIFORM] = erasure(KINDS[0], SOURCES[0], uniform=True)
    rows = run_jobs(jobs.values(), RESULTS / "posterior_quality.jsonl", workers=workers, title="erasures")
    return {name: rows[job.key] for name, job in jobs.items()}


def erasure(kind: PosteriorKind, source: str, *, uniform: bool = False) -> SourcedJob:
    """The short erasure with one posterior."""
    options = tuple(sorted({**QUICK, "posterior": kind, "replacement": "posterior"}.items()))
    return SourcedJob(
        method="retain_posterior",
        forget_class=FORGET_CLASS,
        options=options,
        seed=SEED,
        data=source,
        uniform=uniform,
        also=ALSO,
    )


def markdown(posteriors: dict[str, Any], erased: dict[str, Row]) -> str:
    """One line for each posterior: shares by timestep from the least noise to the most, then what it erases."""
    lines = [
        "| posterior | accuracy by timestep | identity, share of uniform's | NLL, with temperature | forget "
        "| looks real | retain | Frechet |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in {**erased, **posteriors}:
        row = erased.get(name)
        shares = (
            [f"{row[key]:.1%}" for key in ("forget_accuracy", "forget_precision", "retain_accuracy")] if row else []
        )
        scores = " | ".join([*shares, f"{row['frechet']:.2f}"]) if row else "| | |"
        if name not in posteriors:
            lines.append(f"| {name} | | | | {scores} |")
            continue
        entry = posteriors[name]
        accuracy, left = (" ".join(f"{each:.2f}" for each in entry[key]) for key in ("accuracy", "share_of_uniform"))
        fitted = entry["calibration"]
        losses = f"{fitted['nll']:.3f}, {fitted['nll_with_temperature']:.3f} at {fitted['temperature']:.2f}"
        lines.append(f"| {name} | {accuracy} | {left} | {losses} | {scores} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each [default: 1]")
    arguments = parser.parse_args()
    summary = {"forget_class": FORGET_CLASS, **quality(load(MODEL)), "environment": environment()}
    write_json(summary, RESULTS / "posterior_quality.json")
    summary["erasures"] = erasures(arguments.workers)
    write_json(summary, RESULTS / "posterior_quality.json")
    print(markdown(summary["posteriors"], summary["erasures"]))


if __name__ == "__main__":
    main()
