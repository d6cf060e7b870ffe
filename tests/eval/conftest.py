"""A model whose denoiser is known in closed form, its perfect classifier, and real images from the same Gaussians."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from eval.evaluate import draw_samples, evaluate
from eval.features import ClassifierScorer
from eval.pictures import grid, save_png
from eval.probe import Budget, run_probe
from eval.protocol import named
from eval.reference import observe, reference_from_observations
from eval.report import Report, pictured_classes
from pipelines.classifier import Classifier
from pipelines.diffusion import NoiseSchedule
from pipelines.latents import Latents

torch.set_num_threads(1)
NUM_CLASSES, SIZE, SPREAD = 5, 4, 0.25
GREY = 40.0  # grey levels per unit of a latent


class ToyTransformer(nn.Module):
    """A label table where pipelines.embedding looks for it; its rows are the class means."""

    def __init__(self) -> None:
        super().__init__()
        table = nn.Embedding(NUM_CLASSES + 1, 3 * SIZE * SIZE)
        means = torch.randn(NUM_CLASSES, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(0))
        table.weight.data = torch.cat([means, means.mean(0, keepdim=True)])
        emb = nn.Module()
        emb.class_embedder = nn.Module()
        emb.class_embedder.embedding_table = table
        block = nn.Module()
        block.norm1 = nn.Module()
        block.norm1.emb = emb
        self.transformer_blocks = nn.ModuleList([block])

    @property
    def means(self) -> torch.Tensor:
        return self.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight


class ToyDiT:
    """Class c is N(row c of the label table, SPREAD^2); the denoiser is the exact posterior mean."""

    num_classes, null_class, image_size = NUM_CLASSES, NUM_CLASSES, SIZE
    latent_shape = (3, SIZE, SIZE)
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.transformer = ToyTransformer()
        self.noise_schedule = NoiseSchedule(1000, beta_start=1e-4, beta_end=0.02)
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0).float()
        self.id2label = dict(enumerate(["zero", "one", "two", "three", "four"]))
        self.provenance = {"source": "toy"}

    def predict(self, latents, timesteps, class_labels):
        mean = self.mean_of(class_labels).view(-1, *self.latent_shape)
        abar = self.alphas_cumprod[timesteps][:, None, None, None]
        shrink = SPREAD**2 * abar.sqrt() / (SPREAD**2 * abar + 1 - abar)
        denoised = mean + shrink * (latents - abar.sqrt() * mean)
        noise = (latents - abar.sqrt() * denoised) / (1 - abar).sqrt()
        return torch.cat([noise, torch.zeros_like(noise)], 1)

    def mean_of(self, class_labels):
        return self.transformer.means[class_labels]

    def decode(self, latents, *, precision="fp32"):
        return (latents * GREY + 128).round().clamp(0, 255).to(torch.uint8)

    def frozen_copy(self):
        return copy.deepcopy(self)


class AbsentToy(ToyDiT):
    """It never saw class 3: whatever the row, a mean lies in the span of the other classes, and away from that one.

    How far away is a weight, so that the class can be taught.
    """

    def __init__(self) -> None:
        super().__init__()
        means = self.transformer.means.detach()
        others = means[[0, 1, 2, 4]]
        basis, _ = torch.linalg.qr(others.T)
        self.span = basis @ basis.T
        self.transformer.away = nn.Parameter((means[3] - means[3] @ self.span) / 2)
        self.transformer.means.data[5] = others.mean(0)

    def mean_of(self, class_labels):
        return self.transformer.means[class_labels] @ self.span - self.transformer.away


class DisplacedToy(ToyDiT):
    """Class 3 is hidden in a weight that all classes share: all means are shifted, so far that it alone is mistaken."""

    GAIN = 200  # an attacker's forty steps of 2e-4 are enough to shift them back

    def __init__(self) -> None:
        super().__init__()
        means = self.transformer.means.detach()
        self.transformer.shift = nn.Parameter(0.6 * (means[0] - means[3]) / self.GAIN)

    def mean_of(self, class_labels):
        return self.transformer.means[class_labels] + self.GAIN * self.transformer.shift


class NearestMean(nn.Module):
    """Logits are minus half the squared distance to each class mean, features the pixels."""

    num_classes, num_features = NUM_CLASSES, 3 * SIZE * SIZE

    def __init__(self, means: torch.Tensor) -> None:
        super().__init__()
        self.means = nn.Parameter(means.clone())

    def forward_features(self, pixels):
        return (pixels.flatten(1) * 255 - 128) / GREY

    def forward_head(self, maps, pre_logits=False):
        return maps if pre_logits else -0.5 * torch.cdist(maps, self.means).square()


class RealImages:
    """``count`` images of each class, drawn from the class Gaussians."""

    key = "toy real images"

    def __init__(self, means: torch.Tensor, count: int, seed: int) -> None:
        self.labels = torch.arange(NUM_CLASSES).repeat_interleave(count)
        noise = torch.randn(len(self.labels), means.shape[1], generator=torch.Generator().manual_seed(seed))
        latents = means[self.labels] + SPREAD * noise
        self.pixels = (latents * GREY + 128).round().clamp(0, 255).to(torch.uint8).view(-1, 3, SIZE, SIZE)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices):
        return self.pixels[indices]


def latents_of(images: RealImages) -> Latents:
    """Pixels as latents, for attackers who own images."""
    mean = ((images.pixels.float() - 128) / GREY)[:, None]
    return Latents.in_memory(mean=mean, std=torch.zeros_like(mean), class_labels=images.labels)


@pytest.fixture(scope="session")
def toy():
    """The untouched model with its classifier, protocol and held-out reference for class 3."""
    model = ToyDiT()
    means = model.transformer.means.detach()[:NUM_CLASSES]
    classifier = Classifier(name="toy", network=NearestMean(means), input_size=SIZE, mean=(0,) * 3, std=(1,) * 3)
    scorer = ClassifierScorer(classifier, feature_space="toy")
    observations = observe(RealImages(means, 60, 1), scorer=scorer)
    reference = reference_from_observations(observations, forget_classes=(3,), description="toy held-out images")
    return SimpleNamespace(
        model=model,
        scorer=scorer,
        observations=observations,
        reference=reference,
        training=observe(RealImages(means, 60, 2), scorer=scorer),
        latents=latents_of(RealImages(means, 60, 2)),
        protocol=named("small"),
    )


@pytest.fixture
def original():
    return ToyDiT()


@pytest.fixture
def erased():
    """The model whose row of class 3 is that of class 4."""
    model = ToyDiT()
    model.transformer.means.data[3] = model.transformer.means.data[4]
    return model


@pytest.fixture
def absent():
    """The model that never saw class 3."""
    return AbsentToy()


@pytest.fixture
def displaced():
    """The model that hides class 3 in a weight of all classes."""
    return DisplacedToy()


HISTORY = [{"step": step, "forget_loss": 1 + step / 10, "retain_loss": 1.0, "forget_grad_norm": 10.0 ** -(step / 10)}
           for step in range(0, 50, 10)]  # fmt: skip


@pytest.fixture
def report(toy, original, erased):
    """What the report of an erasure of class 3 is made of, the row probe included."""
    protocol = replace(toy.protocol, num_forget_images=20, num_retain_images=40, num_inference_steps=4)
    models = {"original": original, "erased": erased}
    record = evaluate(models, forget_classes=[3], protocol=protocol, scorer=toy.scorer, reference=toy.reference)
    budget = Budget(original=original, protocol=protocol, scorer=toy.scorer, num_images=10)
    found = run_probe("embedding_restore", erased, [3], budget, control_class=1)[3]
    record["probes"] = {"embedding_restore": {name: result.to_dict() for name, result in found.items()}}
    classes = pictured_classes(record)
    return Report(
        record=record,
        samples=draw_samples(models, classes, protocol=protocol, num_images=8),
        sampled_classes=classes,
        probes={"embedding_restore": found},
        history=HISTORY,
        command='erase run three --note "<50 %>"',
        facts={"method": "sfron"},
    )


@pytest.fixture
def attacked(report, tmp_path):
    """The same with a retrained model, attacks of every outcome, gates of which one fails, a sweep and previews."""
    row = report.probes["embedding_restore"]

    def made(erased, retrained, **detail):
        found = {**row, "retrained": row["erased"]}
        shares = {"original": 0.98, "embedding_reset": 0.95, "retrained": retrained, "erased": erased, "control": 0.97}
        return {who: shown(found[who], shares[who], detail) for who in shares}

    def shown(result, value, detail):
        ends = {"low": max(0, value - 0.02), "high": min(1, value + 0.02), "n": 1000}
        return replace(result, value=value, **ends, detail={**result.detail, **detail})

    probes = {
        "embedding_restore": made(0.0, 0.02), "embedding_inversion": made(0.37, 0.36),
        "relearning": made(0.6, 0.3, curve=[[5, 0.1], [20, 0.6]], strongest="10 images"),
        "label_mixing": made(0.9, 0.04),
    }  # fmt: skip
    record = {**report.record, "retrained": report.record["erased"], "gates": ["forget_accuracy<=0.1", "recall>=2"]}
    record["probes"] = {name: {who: each.to_dict() for who, each in rows.items()} for name, rows in probes.items()}
    row = {"condition": "as scored", "num_images": 100, **{name: record[name] for name in ("original", "erased")}}
    record["sweep"] = [row, {**row, "condition": "dpm-solver++, 20 steps"}]
    for step in (10, 20):
        save_png(grid(report.samples["erased"][0], columns=8, scale=8), tmp_path / f"{step}.png")
    samples = {**report.samples, "retrained": report.samples["erased"]}
    previews = {step: tmp_path / f"{step}.png" for step in (10, 20)}
    return replace(report, record=record, probes=probes, samples=samples, previews=previews)
