"""Networks that `sinai train` or `sinai finetune` left in a folder, or that a checkpoint holds."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import InputError
from .baselines import defend
from .checkpoint import bundled, load
from .nets import build
from .recipes import Recipe
from .sinai import unconvert
from .weights import load_converted

__all__ = ["Trained", "load_trained"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network in eval mode on the CPU, with what made it.

    `record` is that of ``record.json``, or the recipe and the step if training has not ended.
    `noisy` is the same network with noise weights, if there are any.
    """

    net: nn.Module
    recipe: Recipe
    record: dict[str, Any]
    noisy: nn.Module | None = None


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """Read a folder of `sinai train` or `sinai finetune`, their ``state.pt`` or ``net.pt``, or a
    checkpoint; code in a file is never run.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    path = Path(path)
    if (path / "net.pt").is_file() or path.name == "net.pt":
        return _tuned(path / "net.pt" if path.is_dir() else path)
    if (path / "checkpoint.json").is_file() or (not path.exists() and str(path) in bundled()):
        training = (loaded := load(path)).manifest.training
        net = unconvert(loaded.floating())
        return Trained(net, _recipe(training, path), training, loaded.floating())
    return _trained(path / "state.pt" if path.is_dir() else path)


def _tuned(file: Path) -> Trained:
    net, about = load_converted(file)
    record = about["record"] if isinstance(about["record"], dict) else {}
    return Trained(unconvert(copy.deepcopy(net)), _recipe(record, file), record, net)


def _recipe(record: dict[str, Any], path: Path) -> Recipe:
    try:
        return _made(record["recipe"])
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path}: does not say how its network was trained; tune one that `sinai train` made"
        ) from None


def _made(told: dict[str, Any]) -> Recipe:
    listed = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    return Recipe(**told | listed)


def _trained(file: Path) -> Trained:
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
        told, weights = json.loads(state["recipe"]), state["net"]
        recipe = _made(told)
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
