"""A command that a script starts in the background, where shells have it ignore Ctrl-C, stops when it is asked to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WAITING = """
import time
from erase import cli

def wait(**settings):
    print(flush=True)
    time.sleep(10)

cli.cli = wait
cli.main([])
"""
SMALL = ["--steps", "100000", "--forget-batch-size", "2", "--retain-batch-size", "2", "--log-every", "1"]
RUN = ["run", "three", "--model", "digits", "--method", "gradient_ascent", "--protocol", "none", "--output", "out"]


def in_background(command: list[str], folder: Path) -> subprocess.Popen:
    """A script that starts a command with ``&``, prints its process number and waits for it."""
    return subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait $!', "sh", *command],
        cwd=folder,
        env={**os.environ, "ERASE_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_int_stops_a_background_command(tmp_path: Path) -> None:
    script = in_background([sys.executable, "-c", WAITING], tmp_path)
    command = int(script.stdout.readline())
    script.stdout.readline()
    os.kill(command, signal.SIGINT)
    _, said = script.communicate(timeout=60)
    assert (script.returncode, said) == (130, "error: stopped\n")


@pytest.mark.slow
def test_kill_int_stops_a_background_run_which_can_be_resumed(tmp_path: Path) -> None:
    script = in_background([sys.executable, str(ROOT / "erase" / "__main__.py"), *RUN, *SMALL], tmp_path)
    run = int(script.stdout.readline())
    lines, deadline = tmp_path / "out" / "metrics.jsonl", time.monotonic() + 120
    while not (lines.exists() and lines.stat().st_size) and time.monotonic() < deadline:
        assert script.poll() is None, script.stderr.read()
        time.sleep(0.05)

    os.kill(run, signal.SIGINT)
    try:
        _, said = script.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.kill(run, signal.SIGKILL)
        raise
    assert script.returncode == 75, said
    assert "SIGINT after step" in said.splitlines()[-1]
