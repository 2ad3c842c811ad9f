"""Networks that `sinai train` or `sinai finetune` left in a folder, or that a checkpoint holds."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from ..common.errors import InputError
from .baselines import defend
from .checkpoint import bundled, is_checkpoint, load
from .nets import build
from .recipes import Recipe
from .sinai import unconvert
from .weights import digest, read, rebuild

__all__ = ["Trained", "load_trained"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network in eval mode on the CPU, with what made it.

    Parameters
    ----------
    name : str
        Of the folder, file or checkpoint.
    net : Module
        Without SINAI layers.
    record : dict
        That of ``record.json``, ``net.pt`` or the checkpoint; recipe and step if a training has not
        ended.
    noisy : Module, optional
        The same network with noise weights, if there are any.
    digest : str
        Digest of a checkpoint's numbers, else of the network (:func:`sinai.model.weights.digest`).
    """

    name: str
    net: nn.Module
    record: dict[str, Any]
    noisy: nn.Module | None
    digest: str

    @cached_property
    def recipe(self) -> Recipe:
        """How it was trained.

        Raises
        ------
        InputError
            If the record does not say.
        """
        try:
            return _recipe(self.record["recipe"])
        except (KeyError, TypeError, AttributeError):
            raise InputError(
                f"{self.name}: does not say how its network was trained; tune one that `sinai"
                " train` made"
            ) from None


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """Read a folder of `sinai train` or `sinai finetune`, the ``state.pt`` of the first or the
    ``net.pt`` of the second under any name, or a checkpoint; code in a file is never run.

    Raises
    ------
    InputError
        If a file is missing or damaged, or a fine-tuning has not ended.
    """
    path = Path(path)
    if is_checkpoint(path):
        loaded = load(path)
        noisy = loaded.floating()
        net = unconvert(loaded.floating())
        return Trained(loaded.name, net, loaded.manifest.training, noisy, loaded.digest)
    file = _file(path)
    state = read(file, "network")
    if "about" in state:
        return _tuned(state, file)
    return _trained(state, file)


def _file(path: Path) -> Path:
    """The file that holds the network of `path`."""
    if not path.exists():
        raise InputError(
            f"{path}: is no file and no folder; give the folder that `sinai train` wrote, or `sinai"
            f" finetune`, or a checkpoint: a folder, or one of {', '.join(bundled()) or 'none'}"
        )
    if path.is_file():
        return path
    for name in ("net.pt", "state.pt"):
        if (path / name).is_file():
            return path / name
    if any(path.glob("layers-*-of-*.pt")):
        raise _unfinished(path)
    raise InputError(
        f"{path}: holds neither state.pt nor net.pt nor checkpoint.json; give the folder that"
        " `sinai train`, `sinai finetune` or `sinai distill` wrote"
    )


def _unfinished(path: Path) -> InputError:
    return InputError(
        f"{path}: is of a fine-tuning that was interrupted; finish it with `sinai finetune` and"
        " --resume"
    )


def _tuned(state: dict[str, Any], file: Path) -> Trained:
    noisy, about = rebuild(state, file)
    record = about.get("record")
    net = unconvert(copy.deepcopy(noisy))
    told = record if isinstance(record, dict) else {}
    return Trained(_name(file, "net.pt"), net, told, noisy, digest(noisy))


def _trained(state: dict[str, Any], file: Path) -> Trained:
    if state.get("what") == "fine-tuning":
        tuned = file.with_name("net.pt")
        if tuned.is_file():
            raise InputError(f"{file}: is what a fine-tuning went on from; give {tuned}")
        raise _unfinished(file)
    try:
        told, weights = json.loads(state["recipe"]), state["net"]
        recipe = _recipe(told)
        net = build(recipe.model, len(weights["classifier.bias"]))
        net = defend(net, recipe.defence, seed=recipe.seed)
        net.load_state_dict(weights)
        step = state["step"]
    except InputError:
        raise
    except Exception as error:  # whatever the file holds
        raise InputError(
            f"{file}: is no state of a training ({type(error).__name__}); give the folder that"
            " `sinai train` wrote"
        ) from None
    record = _record(file.with_name("record.json")) or {"step": step}
    return Trained(
        _name(file, "state.pt"), net.eval(), record | {"recipe": told}, None, digest(net)
    )


def _record(file: Path) -> dict[str, Any]:
    """The record of a training; empty if it has not ended."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}); remove it, or"
            " run `sinai train` with --resume, which writes it anew"
        ) from None
    if not isinstance(record, dict):
        raise InputError(
            f"{file}: is no record of a training; remove it, or run `sinai train` with --resume,"
            " which writes it anew"
        )
    return record


def _name(file: Path, usual: str) -> str:
    """The name of the folder, where the file has its usual one."""
    return file.absolute().parent.name if file.name == usual else file.name


def _recipe(told: dict[str, Any]) -> Recipe:
    listed = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    return Recipe(**told | listed)
