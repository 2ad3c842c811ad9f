"""Where PyTorch computes."""

from __future__ import annotations

import torch

__all__ = ["pick"]


def pick(device: str) -> str:
    """Return `device`, ``cpu`` or ``cuda``; of ``auto`` CUDA where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
