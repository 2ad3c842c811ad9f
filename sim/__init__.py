"""The simulator: replays masks on a machine, counts cycles by cause and events by name."""

from importlib import import_module
from typing import Any

__all__ = ["Result", "bound", "simulate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".replay", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
