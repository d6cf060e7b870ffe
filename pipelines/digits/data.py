"""scikit-learn's bundled handwritten digits as 32x32 RGB images with a fixed split into training and held-out."""

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..classes import ClassNames
from ..image_set import ArrayImages
from ..randomness import generator

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SIZE = 32
HELD_OUT_PER_CLASS = 40


def digit_images(split: Literal["train", "held-out"]) -> ArrayImages:
    """The 1,397 training or the 400 held-out images (40 of each class), upsampled from 8x8 with a bicubic filter."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(len(NAMES)):
        members = (labels == digit).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator(0, "digits split", digit))
        held_out[members[order[:HELD_OUT_PER_CLASS]]] = True

    chosen = held_out if split == "held-out" else ~held_out
    pixels = torch.stack([upsample(digits.images[index]) for index in chosen.nonzero()[:, 0]])
    return ArrayImages(pixels=pixels, labels=labels[chosen], class_names=ClassNames(NAMES))


def upsample(image: np.ndarray) -> Tensor:
    """An 8x8 image with values 0 to 16 as uint8 (3, 32, 32)."""
    small = Image.fromarray((image * 255 / 16).round().astype(np.uint8))
    large = np.asarray(small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
    return torch.from_numpy(large.copy()).expand(3, -1, -1)
