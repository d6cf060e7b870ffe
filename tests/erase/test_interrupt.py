"""What a stop says."""

import pytest

from erase.interrupt import stoppable
from pipelines.errors import InterruptedRun


def test_of_several_works_around_each_other_the_outermost_says_what_was_stopped():
    with pytest.raises(InterruptedRun, match=r"^stopped while working on the batch; repeat"):  # noqa: SIM117
        with stoppable("working on the batch"), stoppable("preparing"):
            raise KeyboardInterrupt
