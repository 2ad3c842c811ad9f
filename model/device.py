"""Where PyTorch computes."""

from __future__ import annotations

import torch

from ..common.errors import InputError

__all__ = ["pick"]


def pick(device: str) -> str:
    """Return `device`, ``cpu`` or ``cuda``; of ``auto`` CUDA where there is one.

    Raises
    ------
    InputError
        If it is ``cuda`` and there is none.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise InputError("device cuda: this computer has none; give auto or cpu")
    return "cuda" if found and device != "cpu" else "cpu"
