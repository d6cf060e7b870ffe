"""Erase a named class from a class-conditional diffusion transformer, and put the erasure to the proof.

``erase.run("digits", "three")`` returns a result with ``.model``, ``.scores`` and ``.run_dir``; ``erase.probe`` attacks
it, ``erase.evaluate`` scores it again. ``erase.load`` opens a model, ``erase.draw`` shows what it draws.
``erase.PROTOCOLS`` are the ways of scoring, to be varied with ``dataclasses.replace``.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.model import load

    from .api import PROTOCOLS, evaluate, run
    from .api.drawing import draw
    from .api.probing import probe

__all__ = ["PROTOCOLS", "draw", "evaluate", "load", "probe", "run"]

_HOME = Path(__file__).parent.parent
_PUBLIC = {
    "PROTOCOLS": "eval.protocol",
    "draw": "erase.api.drawing",
    "evaluate": "erase.api",
    "load": "pipelines.model",
    "probe": "erase.api.probing",
    "run": "erase.api",
}


def _check_siblings() -> None:
    """Refuse a working directory whose own ``pipelines`` or ``eval`` hides ours from Python."""
    for name in ("pipelines", "eval"):
        spec = importlib.util.find_spec(name)
        place = None if spec is None or spec.origin is None else Path(spec.origin)
        if place is None or place.parent != _HOME / name:
            found = "nothing" if spec is None else place or next(iter(spec.submodule_search_locations or []), "?")
            raise ImportError(f"{found} shadows the package {_HOME / name} of dit-erase: rename it or start elsewhere")


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used; ``import erase`` itself stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'erase' has no attribute {name!r}")
    _check_siblings()
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """The public names beside those that are there already."""
    return sorted({*globals(), *__all__})
