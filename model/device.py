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
        If it is none of the three, or ``cuda`` and there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, not {device!r}")
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise InputError("device cuda: this computer has none; give auto or cpu")
    return "cuda" if found and device != "cpu" else "cpu"
