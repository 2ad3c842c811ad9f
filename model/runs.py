"""Where the steps of a run were done, which may be interrupted and go on elsewhere."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any

import torch

__all__ = ["count", "here", "of_json"]


def here(device: str | torch.device) -> dict[str, Any]:
    """Return device (its name, if it is a GPU) and versions that a step on `device` runs with."""
    device = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sinai": version("sinai"),
    }


def count(runs: list[dict[str, Any]], here: dict[str, Any]) -> None:
    """Add a step to the last of `runs`, or begin another if device or versions have changed."""
    if not runs or any(runs[-1].get(name) != value for name, value in here.items()):
        runs.append({"steps": 0} | here)
    runs[-1]["steps"] += 1


def of_json(text: str) -> list[dict[str, Any]]:
    """Return the runs that a state holds as `text`; an exception of some kind if it holds none."""
    return [{**run, "steps": int(run["steps"])} for run in json.loads(text)]
