"""Fixtures of the engine's tests."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

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
