"""Claims: one worker at a time, and none for ever."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from erase.batch.claims import LEASE, Worker, is_live, num_alive


@pytest.fixture
def place(tmp_path):
    """The folder of the workers, and a claim beside it."""
    (tmp_path / "workers").mkdir()
    return tmp_path / "workers", tmp_path / "claim"


def age(path, seconds):
    """Make a file older."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_claim_belongs_to_one_worker(place):
    workers, claim = place
    with Worker(workers).alive() as first, Worker(workers).alive() as second:
        assert first.claim(claim) and not second.claim(claim) and not first.claim(claim)
        assert json.loads(claim.read_text())["worker"] == first.name and num_alive(workers) == 2
        claim.unlink()
        assert second.claim(claim)
    assert list(workers.iterdir()) == []


def test_of_many_at_once_one_gets_it(place):
    workers, claim = place
    got, gate = [], threading.Barrier(8)

    def reach():
        worker = Worker(workers)
        worker.path.touch()
        gate.wait()
        got.append(worker.claim(claim))

    threads = [threading.Thread(target=reach) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(got) == [False] * 7 + [True]


def test_a_worker_without_signs_of_life_loses_its_claims(place):
    """On another machine its process cannot be asked, so it has the lease's time."""
    workers, claim = place
    lost, other = Worker(workers, host="elsewhere"), Worker(workers)
    lost.path.touch()
    assert lost.claim(claim) and not other.claim(claim)
    age(lost.path, LEASE + 1)
    assert num_alive(workers) == 1  # the other, which has looked at its clock
    assert other.claim(claim)


def test_a_killed_process_of_this_machine_loses_them_at_once(place):
    workers, claim = place
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    worker = Worker(workers)
    gone = workers / "gone"
    gone.touch()
    claim.write_text(json.dumps({"worker": "gone", "host": worker.host, "pid": process.pid}))
    assert not worker.claim(claim)
    process.kill()
    process.wait()
    assert worker.claim(claim)


def test_a_claim_that_is_being_written_is_left_alone(place):
    workers, claim = place
    claim.touch()
    assert not Worker(workers).claim(claim)
    age(claim, LEASE + 1)
    assert not is_live(claim, workers, now=time.time(), host="here")
    assert not is_live(claim.with_name("none"), workers, now=time.time(), host="here")
