"""Fixtures of the engine's tests, and of the roof's: a model with a classifier, pictures, a short protocol."""

import dataclasses
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from eval.protocol import named
from pipelines.classifier import build_classifier, save_classifier

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TOY_PATH = Path(__file__).with_name("toy_task.py")


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The toy task and its helpers."""
    spec = importlib.util.spec_from_file_location("toy_task", TOY_PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as in the processes that a test starts: sums have one order, and small models run faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def short_protocol():
    """The protocol of models with their own classifier, with few steps and images."""
    return dataclasses.replace(named("small"), num_inference_steps=2, num_forget_images=4, num_retain_images=18)


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
    for name in NAMES:
        (folder / name).mkdir()
        for number in range(3):
            Image.fromarray(draws.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return str(folder)
