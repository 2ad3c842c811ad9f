"""Converted networks in files that hold weights and text alone, safe to load from anyone."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import InputError
from ..common.scheme import Scheme
from .fold import fold_batch_norm
from .nets import build
from .sinai import SinaiConv2d, SinaiLayer, SinaiLinear
from .switches import Switches

__all__ = ["load_converted", "read", "save_converted", "write"]

_FORMAT = 1
_KINDS = {kind.__name__: kind for kind in (SinaiConv2d, SinaiLinear)}


def write(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Save tensors and plain values beside `path` and rename: an old file is never half written."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
        os.replace(aside, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); give a file in a folder that exists"
        ) from None
    finally:
        if aside.exists():
            aside.unlink()


def read(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """Load what :func:`write` saved, on the CPU; code in the file is refused, never run.

    Raises
    ------
    InputError
        If the file cannot be read or is no `what`.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give the file of a {what}"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: is no {what} ({type(error).__name__}); give a file that sinai wrote"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: is no {what}; give a file that sinai wrote")
    return state


def save_converted(
    net: nn.Module, path: str | os.PathLike[str], *, network: str = "", record: Any = None
) -> None:
    """Save a converted network: its weights, and what every SINAI layer is.

    Parameters
    ----------
    network : str
        Its name in :data:`sinai.model.nets.MODELS`, if it has one; then it loads by itself.
    record : optional
        How it was made; anything that JSON holds.

    Raises
    ------
    InputError
        If `net` has no SINAI layer or the file cannot be written.
    """
    layers = {
        name: {
            "kind": type(layer).__name__,
            "key": list(layer.key),
            "scheme": str(layer.scheme),
            "switches": asdict(layer.switches),
        }
        for name, layer in net.named_modules()
        if name and isinstance(layer, SinaiLayer)
    }
    if not layers:
        raise InputError(f"network: {type(net).__name__} has no SINAI layer inside to save")
    about = {
        "format": _FORMAT,
        "network": network,
        "classes": getattr(net, "classes", 0),
        "layers": layers,
        "record": record,
    }
    write(path, {"about": json.dumps(about), "net": net.state_dict()})


def load_converted(
    path: str | os.PathLike[str], net: nn.Module | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the converted network of a file, in eval mode, and what the file says about it.

    Parameters
    ----------
    net : Module, optional
        An unconverted network of the same architecture, which becomes the result; needed if the
        file names no network of ours.

    Raises
    ------
    InputError
        If the file is damaged or does not fit the network.
    """
    state = read(path, "converted network")
    try:
        about, weights = json.loads(state["about"]), state["net"]
        if about["format"] != _FORMAT:
            raise InputError(f"{path}: format must be {_FORMAT}, not {about['format']!r}")
        if net is None:
            if not about["network"]:
                raise InputError(f"{path}: names no network; give one of its architecture as net")
            net = build(about["network"], about["classes"])
        net.eval()
        made = [
            (name, entry, Switches(**entry["switches"])) for name, entry in about["layers"].items()
        ]
        if any(switches.batch_norm == "fold" for _, _, switches in made):
            fold_batch_norm(net, strict=False)
        places: dict[int, list[str]] = {}
        for name, part in net.named_modules(remove_duplicate=False):
            places.setdefault(id(part), []).append(name)
        for name, entry, switches in made:
            kind = _KINDS[entry["kind"]]
            old = net.get_submodule(name)
            scheme = Scheme.parse(entry["scheme"])
            layer = kind(old, name, tuple(entry["key"]), scheme=scheme, switches=switches)
            for place in places[id(old)]:
                net.set_submodule(place, layer)
        net.load_state_dict(weights)
    except (KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: does not fit the network ({str(error).splitlines()[0]}); give a file that"
            " sinai wrote, and the architecture it was made of"
        ) from None
    return net, about
