"""Errors that a user can act on; the command line turns each into one sentence and an exit code."""


class UsageError(ValueError):
    """A value that the user gave cannot be used (exit code 2)."""


class MissingError(OSError):
    """Weights or data are missing, unreadable or unreachable (exit code 4)."""


class DivergedError(RuntimeError):
    """Training left the range in which its result means anything (exit code 5)."""


class InterruptedRun(RuntimeError):
    """The run was stopped on request and continues when the same command is given again (exit code 75)."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in the place of a traceback: who stops a run knows where it was."""
        return [f"{type(self).__name__}: {self}"]


class GateFailedError(RuntimeError):
    """The run finished but a value lies outside a gate that the user set (exit code 3)."""


class LostProcessError(RuntimeError):
    """Another process of the same launch has ended (exit code 1)."""


TOLD = "every process has this error"  # note on one that the processes of a launch share
ACTIONABLE = (UsageError, MissingError, DivergedError, InterruptedRun, GateFailedError)
