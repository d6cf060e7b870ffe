"""Errors as a notebook shows them."""

from pipelines.errors import InterruptedRun


def test_a_stopped_run_is_one_line_in_a_notebook():
    """IPython shows what this method gives in the place of a traceback."""
    assert InterruptedRun("stopped after step 3")._render_traceback_() == ["InterruptedRun: stopped after step 3"]
