"""CONTRIBUTING.md followed to the letter: a method and a metric of one file each, no other file touched."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = re.findall(r"`((?:erase|eval)/\w+/\w+\.py)`[^`]*?:\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def extended(tmp_path):
    """The packages with the files of the page beside the others, as a function that runs a command on them."""
    for package in ("erase", "eval", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in EXAMPLES:
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(code)

    def run(*words):
        command = [sys.executable, "-m", "erase", *words]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "ERASE_CACHE": str(tmp_path / "cache")}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_a_method_and_a_metric_take_one_file_each(extended, tiny_folder, tmp_path):
    assert [path for path, _ in EXAMPLES] == ["erase/methods/null_anchor.py", "eval/metrics/brightness.py"]
    assert "--anchor-weight" in extended("methods", "null_anchor").stdout

    done = extended(
        "run", "three", "--model", str(tiny_folder), "--method", "null_anchor", "--anchor-weight", "2", "--steps", "2",
        "--replay-per-class", "2", "--retain-batch-size", "8", "--protocol", "none", "--output", "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)["config"]
    assert config["method_options"]["anchor_weight"] == 2 and config["engine"]["forget_batch_size"] == 32

    script = (
        "import torch; from eval.metric import Batch, Context, metric_class;"
        "metric = metric_class('brightness')(Context(forget_classes=(3,), num_classes=10, seed=0));"
        "images = torch.full((4, 3, 8, 8), 51, dtype=torch.uint8); images[2:] = 255;"
        "seen = {'logits': torch.zeros(4, 10), 'features': torch.zeros(4, 2)};"
        "labels = torch.tensor([3, 3, 4, 4]);"
        "metric.update(Batch(images=images, class_labels=labels, forget_classes=(3,), **seen));"
        "value = metric.compute()['forget_brightness']; print(value.value, value.n)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.stdout.split() == ["0.2", "2"], found.stderr
