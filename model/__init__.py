"""The model: PyTorch networks with SINAI noise, their integers, checkpoints and masks.

`convert`, `survey`, `set_scheme` and `Switches` are here by name; nothing is imported until
one of them is asked for.
"""

from importlib import import_module
from typing import Any

__all__ = ["Switches", "convert", "set_scheme", "survey"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".sinai", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
