"""One progress bar for everything long: on stderr or in a notebook, quiet where nobody watches."""

import sys

from tqdm.auto import tqdm

LOG_INTERVAL = 30.0  # seconds between two updates where stderr is a file
WITHOUT_GUESS = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


def bar_of(
    total: int,
    title: str,
    *,
    unit: str,
    shown: bool,
    done: int = 0,
    stays: bool = False,
    late: bool = False,
    guess: bool = True,
) -> tqdm:
    """A progress bar of ``total`` units of which ``done`` are already; it goes when it is full unless it ``stays``.

    A ``late`` one is not seen before its first update, for work that may prove to be done; ``guess=False`` leaves out
    the rate and the time left, for units that are unlike.
    """
    interval = 0.1 if sys.stderr.isatty() or in_notebook() else LOG_INTERVAL
    return tqdm(
        total=total, initial=done, desc=title, unit=unit, disable=not shown, leave=stays, file=sys.stderr,
        mininterval=interval, maxinterval=2 * interval if interval > 1 else 10.0, dynamic_ncols=True,
        delay=1e-9 if late else 0, bar_format=None if guess else WITHOUT_GUESS,
    )  # fmt: skip


def count_kept(bar: tqdm, count: int) -> None:
    """Move a bar over units that an earlier process did: they are no part of the rate."""
    if not bar.disable:
        bar.initial += count
        bar.n += count
