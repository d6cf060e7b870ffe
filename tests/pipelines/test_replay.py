"""Replay: the model's own samples of every class, filtered by its classifier on request, resumable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines import replay as replaying
from pipelines.errors import UsageError
from pipelines.latents import Latents
from pipelines.model import DiT, load
from pipelines.randomness import stream_seed
from pipelines.replay import MOST_TRIES, Replay, check_confidence, next_tries, own_classifier, replay_latents
from pipelines.sampler import SamplerSettings, sample_latents


class Judge:
    """A stand-in for a classifier: even classes are seen in images with a red centre, odd ones in the others."""

    def __init__(self) -> None:
        self.network = nn.Linear(1, 1)

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 10) that give five classes next to 0.2 each and the others next to nothing; no features."""
        even = torch.tensor([9.0, 0.0] * 5)
        return torch.where(images[:, :1, 8, 8] > 150, even, 9 - even), torch.empty(len(images), 0)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """The judge as the classifier of every model."""
    judge = Judge()
    monkeypatch.setattr("pipelines.replay.own_classifier", lambda model: judge)
    return judge


@pytest.fixture
def replay(tiny: DiT, tmp_path: Path) -> Callable[..., Latents]:
    """Two samples of each class, with some arguments of another value."""

    def replay(model: DiT = tiny, *, batch_size: int = 250, **values: Any) -> Latents:
        arguments = {"seed": 5, "cache_dir": tmp_path / "cache", "progress": False}
        arguments |= {name: values.pop(name) for name in list(values) if name in arguments}
        return replay_latents(model, Replay(**{"per_class": 2, **values}), batch_size=batch_size, **arguments)

    return replay


def count_forwards(model: DiT) -> list[int]:
    """A list that grows by one element at each pass of the transformer."""
    calls: list[int] = []
    model.transformer.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_replay_is_the_models_own_samples(fresh: DiT, replay: Callable) -> None:
    """Every class equally often, at guidance 1, as latents without posterior noise."""
    latents = replay(fresh, cache_dir=None)
    assert latents.class_labels.bincount().tolist() == [2] * 10
    assert latents.mean.shape == (20, 1, *fresh.latent_shape) and latents.std.abs().max() == 0
    seeds = [stream_seed(5, "replay", index) for index in range(20)]
    settings = SamplerSettings(guided_channels=3)
    expected = sample_latents(fresh, latents.class_labels, seeds, settings)
    assert settings.guidance_scale == 1 and torch.equal(latents.mean[:, 0], expected)
    assert not fresh.transformer.proj_out_2.weight.grad_fn and not latents.mean.requires_grad


def test_replay_does_not_depend_on_the_batch(replay: Callable) -> None:
    expected = replay(cache_dir=None).mean
    assert (replay(cache_dir=None, batch_size=7).mean - expected).abs().max() < 1e-5 * expected.abs().max()


def test_replay_is_sampled_once(fresh: DiT, replay: Callable, capsys: pytest.CaptureFixture) -> None:
    first = replay(fresh)
    calls = count_forwards(fresh)
    second = replay(fresh, progress=True)
    assert not calls and torch.equal(first.mean, second.mean) and capsys.readouterr().err.strip() == ""
    assert torch.equal(first.class_labels, second.class_labels)


def test_damaged_replay_is_sampled_again(fresh: DiT, replay: Callable, tmp_path: Path) -> None:
    first = replay(fresh).mean
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    calls = count_forwards(fresh)
    assert torch.equal(replay(fresh).mean, first) and len(calls) == 20


@pytest.mark.parametrize("change", ["weights", "count", "seed", "guidance"])
def test_replay_of_something_else_is_kept_apart(fresh: DiT, replay: Callable, tmp_path: Path, change: str) -> None:
    replay(fresh)
    if change == "weights":
        fresh.transformer.transformer_blocks[1].ff.net[2].bias.data[0] += 1e-3
    replay(
        fresh, **{"weights": {}, "count": {"per_class": 3}, "seed": {"seed": 6}, "guidance": {"guidance": 2.0}}[change]
    )
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_guidance_is_that_of_the_sampler(fresh: DiT, replay: Callable) -> None:
    latents = replay(fresh, guidance=3.0, cache_dir=None)
    seeds = [stream_seed(5, "replay", index) for index in range(20)]
    settings = SamplerSettings(guidance_scale=3.0, guided_channels=3)
    assert torch.equal(latents.mean[:, 0], sample_latents(fresh, latents.class_labels, seeds, settings))


def test_a_stopped_replay_goes_on_where_it_was(fresh: DiT, replay: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four batches the third is cut off: the first two are not made again."""
    whole, sampled = replay(fresh, batch_size=6, cache_dir=None), []

    def two_batches(model: DiT, labels: Tensor, *others: Any) -> Tensor:
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(labels)
        return sample_latents(model, labels, *others)

    monkeypatch.setattr(replaying, "sample_latents", two_batches)
    with pytest.raises(KeyboardInterrupt):
        replay(fresh, batch_size=6)
    monkeypatch.setattr(replaying, "sample_latents", sample_latents)
    calls = count_forwards(fresh)
    found = replay(fresh, batch_size=6)
    assert len(calls) == 2 * 20 and torch.equal(found.mean, whole.mean)


@pytest.mark.parametrize("batch_size", [250, 7])
def test_rejected_samples_are_replaced_by_those_of_further_seeds(
    tiny: DiT, judged: Judge, replay: Callable, batch_size: int, capsys: pytest.CaptureFixture
) -> None:
    """Of each class the first four tries that the judge takes, in whatever batches they are drawn."""
    tries = torch.arange(10 * 30)
    seeds = [stream_seed(5, "replay", number) for number in tries.tolist()]
    everything = sample_latents(tiny, tries % 10, seeds, SamplerSettings(guided_channels=3))
    taken = judged.logits_and_features(tiny.decode(everything))[0].softmax(1)[tries, tries % 10] >= 0.15
    expected, numbers = [], []
    for label in range(10):
        accepted = [number for number in tries[tries % 10 == label].tolist() if taken[number]]
        expected.append(everything[accepted[:4]])
        numbers.append(accepted[3] // 10 + 1)

    found = replay(per_class=4, confidence=0.15, batch_size=batch_size, cache_dir=None, progress=True)
    assert found.class_labels.bincount().tolist() == [4] * 10
    for label in range(10):
        torch.testing.assert_close(found.of_classes([label]).mean[:, 0], expected[label], rtol=1e-4, atol=1e-4)
    told, rejected = capsys.readouterr().err, sum(numbers) - 40
    assert rejected > 0 and f"replay: {rejected} of {sum(numbers)} samples rejected below confidence 0.15" in told
    for label, number in enumerate(numbers):
        assert number == 4 or f"{tiny.classes[label].name} {number - 4} of {number}" in told


def test_a_filtered_replay_goes_on_where_it_was(fresh: DiT, judged: Judge, replay: Callable, tmp_path: Path) -> None:
    """A lost part is made again, and the later parts still fit to it."""
    whole = replay(fresh, per_class=3, confidence=0.15, batch_size=8).mean
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    files[1].write_bytes(files[1].read_bytes()[:99])
    calls = count_forwards(fresh)
    found = replay(fresh, per_class=3, confidence=0.15, batch_size=8)
    assert len(files) > 4 and len(calls) == 20 and torch.equal(found.mean, whole)
    judged.network.bias.data += 1  # another judge, other samples
    replay(fresh, per_class=3, confidence=0.15, batch_size=8)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_class_that_is_never_recognised_is_given_up(judged: Judge, replay: Callable) -> None:
    words = (
        rf"--replay-confidence 0.5: only 0 of {2 * MOST_TRIES} samples of class 0 \(zero\) reach it and 2 are wanted"
    )
    with pytest.raises(UsageError, match=words):
        replay(confidence=0.5, cache_dir=None)


def test_tries_are_those_that_each_class_lacks() -> None:
    """In the order of their numbers, as without a judge; a class that had all its tries has no more."""
    asked = Replay(per_class=3)
    none = torch.zeros(4, dtype=torch.int64)
    assert next_tries(none, none, asked, limit=99) == list(range(12))
    assert next_tries(none, none, asked, limit=5) == [0, 1, 2, 3, 4]
    tried, kept = torch.tensor([3, 4, 3 * MOST_TRIES, 3 * MOST_TRIES - 1]), torch.tensor([3, 2, 0, 1])
    assert next_tries(tried, kept, asked, limit=99) == [4 * 4 + 1, 4 * (3 * MOST_TRIES - 1) + 3]


def test_the_judge_is_the_models_own_classifier(tiny: DiT) -> None:
    """Every sample that is kept is one of whose class the embedded classifier is sure."""
    digits = load("digits")
    latents = replay_latents(digits, Replay(per_class=2, confidence=0.97), seed=0, cache_dir=None, progress=False)
    logits, _ = own_classifier(digits).logits_and_features(digits.decode(latents.mean[:, 0]))
    assert logits.softmax(1)[torch.arange(20), latents.class_labels].min() > 0.969
    assert latents.class_labels.bincount().tolist() == [2] * 10
    with pytest.raises(UsageError, match="this model ships none"):
        replay_latents(tiny, Replay(confidence=0.5), seed=0, cache_dir=None, progress=False)


def test_a_model_without_classifier_is_refused_before_it_is_loaded(saved: Path) -> None:
    check_confidence(str(saved), 0.0)
    check_confidence("digits", 0.9)
    with pytest.raises(UsageError, match=r"--replay-confidence 0.9 needs a classifier, and model .* ships none"):
        check_confidence(str(saved), 0.9)
