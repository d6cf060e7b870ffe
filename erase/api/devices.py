"""Which device a command runs on."""

import torch

from pipelines.errors import UsageError


def pick_device(device: str) -> torch.device:
    """``auto`` takes a GPU when there is one (``UsageError`` for a device that is not there)."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device} is not available: {str(error).splitlines()[0]}") from error
    return torch.device(device)
