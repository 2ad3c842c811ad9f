"""Traces of activation masks: the format, real ones from a network, synthetic ones from statistics.

`load` and `save` are here by name; nothing is imported until one of them is asked for.
"""

from importlib import import_module
from typing import Any

__all__ = ["bundled", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".schema", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
