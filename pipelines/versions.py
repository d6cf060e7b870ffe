"""Versions of everything that can change a number."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("dit-erase", "torch", "diffusers", "timm", "torchvision", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
