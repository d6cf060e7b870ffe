"""Time to a number of images: the plain loop's 250 steps of DDPM against the product's samplers, and its overhead."""

import statistics
from dataclasses import replace

import torch

from pipelines.generate import generate_all
from pipelines.model import DiT, load
from pipelines.sampler import SamplerSettings, sample_latents

from .baseline import plain_ddpm, plain_pixels
from .models import SIZE_OF, random_dit
from .pairs import FEWER, LOWER, NUM_ROUNDS, SAME, Row, Stopwatch, compared, held, in_turns

GUIDANCE = 4.0
NUM_PLAIN_STEPS = 250
NUM_IMAGES = {"cpu": 32, "cuda": 256}
FP32, BF16 = ("ddim 50", "dpm-solver++ 20"), "dpm-solver++ 20, bf16"
SHORT = SamplerSettings(sampler="ddpm", num_inference_steps=10, guidance_scale=GUIDANCE)


def measure(device: torch.device) -> list[Row]:
    """The same steps on both sides on a published shape; then images of the embedded model, each side its own way."""
    return [measure_same(device), *measure_images(device)]


def measure_same(device: torch.device) -> Row:
    """Ten steps of DDPM with guidance on either side."""
    size = SIZE_OF[device.type]
    model, seeds, labels = random_dit(size, device), [0, 1], torch.tensor([1, 207])

    def plain() -> torch.Tensor:
        return plain_ddpm(model, labels, seeds, num_steps=SHORT.num_inference_steps, guidance_scale=GUIDANCE)

    def ours() -> torch.Tensor:
        return sample_latents(model, labels, seeds, SHORT)

    first, second = plain(), ours()
    gate = held("latents", float((first - second).norm() / first.norm()), 1e-4)
    seconds = in_turns({"baseline": plain, "ours": ours}, device, num_warm=0)
    case = f"{size}, 2 images, {SHORT.num_inference_steps} DDPM steps"
    return compared(seconds, "ours", benchmark="sampler", case=case, lane=SAME, gate=gate)


def measure_images(device: torch.device) -> list[Row]:
    """Images of the embedded model with guidance, from noise to pixels."""
    model, num_images = load("digits", device=device), NUM_IMAGES[device.type]
    requests = [(number % model.num_classes, number) for number in range(num_images)]
    labels, seeds = torch.tensor([label for label, _ in requests]), [seed for _, seed in requests]

    def plain() -> None:
        latents = plain_ddpm(model, labels, seeds, num_steps=NUM_PLAIN_STEPS, guidance_scale=GUIDANCE)
        plain_pixels(model, latents)

    default = SamplerSettings(guidance_scale=GUIDANCE)
    choices = {
        FP32[0]: replace(default, sampler="ddim", num_inference_steps=50),
        FP32[1]: default,
        BF16: replace(default, precision="bf16"),
    }
    works = {
        name: lambda settings=settings: generate_all(model, requests, settings) for name, settings in choices.items()
    }
    seconds = in_turns({"baseline": plain, **works}, device)
    case = f"digits, {num_images} images, "
    rows = [
        compared(seconds, name, benchmark="images", lane=FEWER, case=f"{case}{name} against DDPM {NUM_PLAIN_STEPS}")
        for name in FP32
    ]
    own = {"baseline": seconds[FP32[-1]], BF16: seconds[BF16]}
    return [*rows, compared(own, BF16, benchmark="images", lane=LOWER, case=f"{case}{FP32[-1]} in bf16 against fp32")]


def overhead(device: torch.device) -> float:
    """Share of a sampling run that is spent outside the network: schedulers, noise, guidance; median of the rounds."""
    model, watch = random_dit(SIZE_OF[device.type], device), Stopwatch(device)
    settings, spent = replace(SHORT, sampler="ddim"), timed_predictions(model, watch)
    shares = []
    for _ in range(1 + NUM_ROUNDS):
        spent.clear()
        total = watch.time(lambda: sample_latents(model, torch.tensor([1, 207]), [0, 1], settings))
        shares.append(1 - sum(spent) / total)
    return statistics.median(shares[1:])


def timed_predictions(model: DiT, watch: Stopwatch) -> list[float]:
    """Have the model note the seconds of each forward pass in the list that is returned."""
    spent, predict = [], model.predict

    def timed(noisy_latents: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        started = watch.now()
        output = predict(noisy_latents, timesteps, class_labels)
        spent.append(watch.now() - started)
        return output

    model.predict = timed
    return spent
