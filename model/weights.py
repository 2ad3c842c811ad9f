"""Converted networks in files that hold weights and text alone, safe to load from anyone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.scheme import Scheme
from .fold import fold_batch_norm
from .nets import build
from .sinai import SinaiConv2d, SinaiLayer, SinaiLinear
from .switches import Switches

__all__ = [
    "ELSEWHERE",
    "check_kind",
    "digest",
    "load_converted",
    "read",
    "rebuild",
    "save_converted",
    "steps_done",
    "take_up",
    "write",
]

#: What to do about a file that must stay as it is.
ELSEWHERE = "choose another folder (-o; of `sinai exp`, --work)"

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
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise InputError(
            f"{path}: is no {what} ({type(error).__name__}); give a file that sinai wrote"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: is no {what}; give a file that sinai wrote")
    return state


def check_kind(path: Path, state: Mapping[str, Any], what: str) -> None:
    """Raise InputError if `state`, read from `path`, does not say under ``what`` that it is that of
    a `what`."""
    if "what" not in state and "recipe" in state:
        raise InputError(f"{path}: was written by an earlier version of sinai; {ELSEWHERE}")
    if state.get("what") != what:
        raise InputError(f"{path}: is no state of a {what}; {ELSEWHERE}")


def steps_done(state: Mapping[str, Any], steps: int) -> int:
    """Return ``step`` of a state, 0 to `steps`; KeyError or ValueError if it is no such number."""
    done = state["step"]
    if not isinstance(done, int) or not 0 <= done <= steps:
        raise ValueError(f"step must be between 0 and {steps}, not {done!r}")
    return done


def take_up(path: Path, what: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state that an interrupted `what` left in `path`, None if there is no such file.

    Parameters
    ----------
    identity : mapping
        What decides the run, as JSON holds it; :func:`write` is given the same as ``identity``, in
        JSON, and `what`.

    Raises
    ------
    InputError
        If the file is of something else or of a run that differs; the message says in what.
    """
    if not path.exists():
        return None
    state = read(path, f"state of a {what}")
    check_kind(path, state, what)
    try:
        theirs = json.loads(state["identity"])
    except (KeyError, TypeError, ValueError):
        theirs = None
    if not isinstance(theirs, dict):
        raise InputError(f"{path}: is damaged, it does not say of which {what}; {ELSEWHERE}")
    ours = json.loads(json.dumps(identity))
    other = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if other:
        raise InputError(
            f"{path}: holds the state of another recipe ({', '.join(other)} not the same);"
            f" {ELSEWHERE}"
        )
    return state


def digest(*parts: Tensor | nn.Module) -> str:
    """Return the SHA-256 of tensors, and of networks: of what their state holds, and of P and the
    switches of their SINAI layers, whatever the device and the scheme."""
    total = hashlib.sha256()
    for part in parts:
        state = {"": part} if isinstance(part, Tensor) else part.state_dict()
        for name, value in state.items():
            total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        if isinstance(part, nn.Module):
            total.update(json.dumps(_layers(part)).encode())
    return total.hexdigest()


def _layers(net: nn.Module) -> dict[str, dict[str, Any]]:
    """What every SINAI layer is besides its state and its scheme."""
    return {
        name: {
            "kind": type(layer).__name__,
            "key": list(layer.key),
            "switches": asdict(layer.switches),
        }
        for name, layer in net.named_modules()
        if isinstance(layer, SinaiLayer)
    }


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
        name: entry | {"scheme": str(net.get_submodule(name).scheme)}
        for name, entry in _layers(net).items()
        if name
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
    return rebuild(read(path, "converted network"), path, net)


def rebuild(
    state: dict[str, Any], path: str | os.PathLike[str], net: nn.Module | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """As :func:`load_converted`, from the `state` that was read from `path`."""
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
        if _lacks_batch_norm(net, weights):
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
    except InputError:
        raise
    except Exception as error:  # whatever the file holds
        raise InputError(
            f"{path}: does not fit the network ({type(error).__name__}); give a file that sinai"
            " wrote, and the architecture it was made of"
        ) from None
    return net, about


def _lacks_batch_norm(net: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether batch-norms of `net` were folded before `weights` were saved. The switches do not
    say so: a folded network can be converted once more."""
    return any(
        f"{name}.{key}" not in weights
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for key in module.state_dict()
    )
