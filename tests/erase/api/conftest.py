"""A tiny model that ships a classifier, and pictures of its classes."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.classifier import build_classifier, save_classifier


@pytest.fixture(scope="session")
def judged_model(tiny_folder, tmp_path_factory):
    """The tiny model with a classifier of its own."""
    folder = tmp_path_factory.mktemp("judged") / "model"
    shutil.copytree(tiny_folder, folder)
    torch.manual_seed(0)
    network = build_classifier("test_resnet", num_classes=10, input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    save_classifier(network, folder / "classifier")
    return str(folder)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three pictures of each class."""
    folder = tmp_path_factory.mktemp("pictures")
    draws = np.random.default_rng(0)
    for name in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"):
        (folder / name).mkdir()
        for number in range(3):
            Image.fromarray(draws.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return str(folder)
