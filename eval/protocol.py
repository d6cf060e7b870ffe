"""Evaluation protocols as data: everything that changes a number, under a name.

``paper`` follows DualOptim (arXiv 2504.15827) and SFR-on (arXiv 2409.19732); ``full`` and ``quick`` are the clean
family; ``small`` is for models that ship their own classifier.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipelines.errors import UsageError
from pipelines.sampler import SamplerSettings

LabelDraw = Literal["balanced", "uniform"]
Features = Literal["classifier", "inception"]
OWN_CLASSIFIER = "own"  # the classifier that ships with the model


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How images are drawn and scored; two records may share a table only when these are equal."""

    name: str
    sampler: Literal["ddpm", "ddim", "dpm-solver++"]
    num_inference_steps: int
    guidance_scale: float  # 1 = off
    guided_channels: int  # without effect at guidance 1
    num_forget_images: int  # of each forget class
    num_retain_images: int  # of all retained classes together
    label_draw: LabelDraw  # how the retained images are spread over their classes
    guidance_start: float = 0.0  # the shares of the sampling steps between which guidance is on
    guidance_end: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"  # of the network while it draws
    decoder_precision: Literal["fp32", "bf16"] = "fp32"  # of the VAE
    first_seed: int = 0
    classifier: str = OWN_CLASSIFIER
    resize: str = "classifier input size, bilinear with antialiasing, no crop"
    features: Features = "classifier"
    reference: str = "held-out real images of the retained classes"
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse counts and names without meaning."""
        for name in ("num_forget_images", "num_retain_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if self.first_seed < 0:
            raise UsageError(f"--first-seed {self.first_seed} must be at least 0")
        for name, kind in (("label_draw", LabelDraw), ("features", Features)):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)!r} is not one of {choices}")
        self.sampler_settings()

    def sampler_settings(self) -> SamplerSettings:
        """The part that turns (weights, class label, seed) into one image."""
        return SamplerSettings(
            sampler=self.sampler,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            guided_channels=self.guided_channels,
            guidance_start=self.guidance_start,
            guidance_end=self.guidance_end,
            precision=self.precision,
            decoder_precision=self.decoder_precision,
        )

    def unguided(self) -> "Protocol":
        """The same without guidance, for images that have no label to be guided to."""
        return dataclasses.replace(self, guidance_scale=1.0, guidance_start=0.0, guidance_end=1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields, without those of ``LATER`` at their defaults."""
        return {
            key: value for key, value in dataclasses.asdict(self).items() if key not in LATER or value != LATER[key]
        }


# Settings that came after records and caches were written which do not name them.
LATER = {
    each.name: each.default
    for each in dataclasses.fields(Protocol)
    if each.name in ("guidance_start", "guidance_end", "decoder_precision")
}

PROTOCOLS = {
    "paper": Protocol(
        name="paper",
        sampler="ddpm",
        num_inference_steps=250,
        guidance_scale=1.5,
        guided_channels=3,
        num_forget_images=512,
        num_retain_images=10_000,
        label_draw="uniform",
        classifier="resnet34.tv_in1k",
        resize="224 x 224, bilinear with antialiasing, no crop",
        features="inception",
        reference="10,000 training images of the retained classes, ADM centre crop 256",
        note=(
            "512 images of each forget class, since the published percentages are multiples of 1/512. Images stay RGB "
            "and unstretched; the released scripts read BGR and stretch the contrast of each reference image."
        ),
    ),
    "full": Protocol(
        name="full",
        sampler="ddpm",
        num_inference_steps=250,
        guidance_scale=1.5,
        guided_channels=3,
        num_forget_images=1_000,
        num_retain_images=10_000,
        label_draw="balanced",
        classifier="resnet34.tv_in1k",
        resize="224 x 224, bilinear with antialiasing, no crop",
        features="inception",
        reference="training statistics with the erased classes removed exactly",
        note="Clean family: balanced labels, fixed seeds, RGB, rounded uint8, Inception without antialiasing.",
    ),
    "quick": Protocol(
        name="quick",
        sampler="ddim",
        num_inference_steps=50,
        guidance_scale=1.5,
        guided_channels=3,
        num_forget_images=500,
        num_retain_images=5_000,
        label_draw="balanced",
        classifier="resnet34.tv_in1k",
        resize="224 x 224, bilinear with antialiasing, no crop",
        features="inception",
        reference="training statistics with the erased classes removed exactly",
        note="Clean family at 50 DDIM steps: other images than 250 DDPM steps, never in one table with them.",
    ),
    "small": Protocol(
        name="small",
        sampler="dpm-solver++",
        num_inference_steps=20,
        guidance_scale=1.0,
        guided_channels=4,
        num_forget_images=1_000,
        num_retain_images=1_000,
        label_draw="balanced",
        note="For models that ship their own classifier; its features take the place of Inception's.",
    ),
}


def named(name: str) -> Protocol:
    """A protocol by name (``UsageError`` lists the names)."""
    if name not in PROTOCOLS:
        raise UsageError(f"--protocol {name!r} is not one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings in which two protocol dictionaries differ, each as (of a, of b); the note changes no number."""
    a, b = LATER | a, LATER | b
    keys = [key for key in {**a, **b} if key != "note"]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}
