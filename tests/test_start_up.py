"""What a command imports before it does anything: the libraries that take seconds stay out until they are needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import erase

ROOT = Path(__file__).parent.parent
HEAVY = {"diffusers", "matplotlib", "pandas", "scipy", "sklearn", "timm", "torch", "torchmetrics", "torchvision"}
PROGRAM = """
import json, sys
from erase.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
else:
    code = 0
print(json.dumps([code, sorted(name for name in sys.modules if "." not in name)]))
"""


def imported(*arguments: str) -> tuple[int, set[str]]:
    """Exit code of a command, and the heavy packages that its process imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, HEAVY & set(modules)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help", 0),
        ("run --help", 0),
        ("doctor --help", 0),
        ("classes retriever", 0),
        ("classes three --model digits", 0),
        ("classes no-such-class", 2),
    ],
)
def test_looking_things_up_imports_nothing_heavy(command: str, code: int) -> None:
    assert imported(*command.split()) == (code, set())


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("methods", 0),
        ("run three --model digits --method magic", 2),
    ],
)
def test_methods_and_refusals_import_torch_alone(command: str, code: int) -> None:
    assert imported(*command.split()) == (code, {"torch"})


def test_the_public_names_are_seen_before_they_are_imported() -> None:
    assert set(erase.__all__) <= set(dir(erase))
