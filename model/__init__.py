"""The model: PyTorch networks with SINAI noise, their integers, checkpoints and masks.

`convert` and `set_scheme` are here by name; nothing is imported until one of them is asked for.
"""

from importlib import import_module
from typing import Any

__all__ = ["convert", "set_scheme"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".sinai", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
