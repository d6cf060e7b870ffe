"""The device of each process of a launch."""

import pytest
import torch

from erase.api.devices import pick_device
from pipelines.errors import UsageError


def test_one_process_takes_what_is_named():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="--device nowhere is not available"):
        pick_device("nowhere")


def test_each_of_several_takes_the_gpu_of_its_number(monkeypatch):
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device: taken.append(device))
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for asked in ("auto", "cuda"):
        assert pick_device(asked) == torch.device("cuda", 1)
    assert taken == ["cuda:1", torch.device("cuda", 1)] * 2
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="--device cuda:0 is one GPU for 2 processes: give cuda, cpu or auto"):
        pick_device("cuda:0")
