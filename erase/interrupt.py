"""Stop requests: the first Ctrl-C or SIGTERM asks for a tidy end, the second acts as it always did."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.errors import InterruptedRun
from pipelines.ranks import largest


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """Names of the signals received so far; the list fills while the block runs.

    Outside the main thread no handler can be set and the list stays empty. A signal that was ignored stays ignored;
    the command line ignores none.
    """
    received: list[str] = []
    previous = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        previous = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def hand_back() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        hand_back()

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        hand_back()


def stop_signal(received: list[str]) -> str:
    """The name of a signal that any rank has received, the same on all of them; empty while there is none."""
    number = largest(signal.Signals[received[0]] if received else 0)
    return signal.Signals(number).name if number else ""


@contextmanager
def stoppable(doing: str) -> Iterator[None]:
    """Inside, Ctrl-C or SIGTERM raises ``InterruptedRun``: what is finished is kept, the rest is made again.

    Of several around each other the outermost says what was stopped.
    """
    main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGTERM) if main else None
    if previous == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, InterruptedRun):
        raise InterruptedRun(f"stopped while {doing}; repeat the same command to go on") from None
    finally:
        if previous == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, previous)
