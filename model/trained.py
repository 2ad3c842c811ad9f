"""Networks that `sinai train` left in a folder, read back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import InputError
from .baselines import defend
from .nets import build
from .recipes import Recipe

__all__ = ["Trained", "load_trained"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network in eval mode on the CPU, with what made it.

    `record` is that of ``record.json``, or the recipe and the step if training has not ended.
    """

    net: nn.Module
    recipe: Recipe
    record: dict[str, Any]


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """Read the folder of a training, or the ``state.pt`` in it; code in the file is never run.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    path = Path(path)
    file = path / "state.pt" if path.is_dir() else path
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
        told, weights = json.loads(state["recipe"]), state["net"]
        listed = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
        recipe = Recipe(**told | listed)
        net = build(recipe.model, len(weights["classifier.bias"]))
        net = defend(net, recipe.defence, seed=recipe.seed)
        net.load_state_dict(weights)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); give the folder that `sinai train` wrote"
        ) from None
    except InputError:
        raise
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise InputError(
            f"{file}: is no state of a training ({type(error).__name__}); give the folder that"
            " `sinai train` wrote"
        ) from None
    record = {"recipe": told, "step": state["step"]}
    if (file.with_name("record.json")).exists():
        record = json.loads(file.with_name("record.json").read_text())
    return Trained(net.eval(), recipe, record)
