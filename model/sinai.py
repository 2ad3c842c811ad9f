"""Conversion of trained networks to SINAI: which layers, and what becomes of them.

`convert` works on any module after its training; `survey` says what it would do and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from ..common.errors import InputError
from ..common.scheme import Scheme
from .fold import fold_batch_norm
from .layers import SinaiConv2d, SinaiLayer, SinaiLinear, obstacle
from .selection import ranks, select
from .switches import Switches

__all__ = [
    "Finding",
    "SinaiConv2d",
    "SinaiLayer",
    "SinaiLinear",
    "convert",
    "fold_batch_norm",
    "layers_of",
    "ranks",
    "select",
    "set_scheme",
    "survey",
    "unconvert",
]

#: Names with ``*`` and ``?``, ``:first`` or ``:last``; or ``choose(name, module) -> bool``.
Choice = str | Sequence[str] | Callable[[str, nn.Module], bool]

#: Modules that read the weights of their children without calling them.
_PAST_MODULES = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, SinaiLayer)


@dataclass(frozen=True)
class Finding:
    """What :func:`convert` does with one layer.

    Parameters
    ----------
    name : str
        Path of the module; the first one if it is shared.
    kind : str
        Its class.
    action : {"convert", "keep", "leave", "refuse"}
        Converted; a SINAI layer already, which is kept and gets the scheme; left as it is since it
        is not chosen; chosen, but of a kind that cannot be converted.
    reason : str
        Why it is not converted; empty if it is.
    """

    name: str
    kind: str
    action: str
    reason: str


def convert(
    module: nn.Module,
    scheme: str | Scheme = "dense",
    *,
    only: Choice = "*",
    skip: Choice | None = None,
    linear: bool = False,
    strict: bool = True,
    seed: int = 0,
    switches: Switches | None = None,
    **changes: object,
) -> nn.Module:
    """Replace the chosen layers of a trained `module` by SINAI layers, in place, and return it.

    Scheme ``dense`` gives the outputs of the original, bit for bit unless batch-norms are folded.
    Devices, types of numbers, training mode, shared modules and shared weights stay as they are.
    :func:`set_scheme` changes the scheme later: one net serves all of them.

    Parameters
    ----------
    scheme : str or Scheme
        ``dense``, ``unstructured:RATIO`` or ``structured:Q:M``.
    only, skip : str, sequence of str, or callable
        Which layers: patterns of names such as ``blocks.*.mlp.*``, the words ``:first`` and
        ``:last``, or a predicate of name and module. By default every Conv2d (paper, section 3),
        and nothing is skipped; with `linear`, the last layer, if it is a Linear: the classifier.
    linear : bool
        Linear layers, too, as for transformers.
    strict : bool
        Refuse what is chosen and cannot be converted, such as grouped convolutions; else leave it:
        :func:`survey` names it.
    seed : int
        Seed of every P, together with the layer's index among all layers of the module in order of
        registration. That is the accelerator's order for the networks of :mod:`sinai.model.nets`.
        It does not depend on the choice.
    switches, changes
        How the layers compute: a :class:`Switches`, or its fields by name.

    Raises
    ------
    InputError
        If a chosen layer cannot be converted, nothing is chosen, a pattern fits no layer, or a
        switch has no such value. The module is unchanged then.
    """
    scheme = scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme)
    switches = replace(switches or Switches(), **changes)
    findings = survey(module, only=only, skip=skip, linear=linear)
    for found in findings:
        if found.action == "refuse" and strict:
            raise InputError(
                f"layer {found.name}: {found.reason}; skip it, or leave all such layers with"
                " strict=False"
            )
    if not any(found.action in ("convert", "keep") for found in findings):
        raise InputError(
            f"network: {type(module).__name__} has no layer to convert among"
            f" {', '.join(found.name for found in findings) or 'none'}; choose others with only,"
            " skip and linear"
        )
    if switches.batch_norm == "fold":
        fold_batch_norm(module, strict=False)
    places = _places(module)
    for index, found in enumerate(findings):
        if found.action != "convert":
            continue
        old = module.get_submodule(found.name)
        kind = SinaiConv2d if isinstance(old, nn.Conv2d) else SinaiLinear
        layer = kind(old, found.name, (seed, index), scheme=scheme, switches=switches)
        if not found.name:
            return layer
        for name in places[id(old)]:
            module.set_submodule(name, layer)
    return set_scheme(module, scheme)


def unconvert(module: nn.Module) -> nn.Module:
    """Put a Conv2d or Linear with the exact weights back in place of every SINAI layer, in place,
    and return `module`: the network whose outputs scheme ``dense`` gives.

    Batch-norms that were folded stay so. Parameters stay the same objects.
    """
    for layer in list(layers_of(module)):
        size = layer.c_in, layer.c_out
        if isinstance(layer, SinaiConv2d):
            plain: nn.Module = nn.Conv2d(*size, layer.kernel, layer.stride, layer.padding)
        else:
            plain = nn.Linear(*size)
        plain.weight, plain.bias = layer.weight, layer.bias
        plain.train(layer.training)
        for name in _places(module)[id(layer)]:
            if not name:
                return plain
            module.set_submodule(name, plain)
    return module


def survey(
    module: nn.Module, *, only: Choice = "*", skip: Choice | None = None, linear: bool = False
) -> list[Finding]:
    """Return what :func:`convert` would do with every convolution and Linear layer of `module`.

    Arguments and errors as there. Findings are in order of registration; a shared layer counts
    once.
    """
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, _WEIGHTED)]
    names = [name for name, _ in layers]
    if skip is None:
        last = isinstance(layers[-1][1], nn.Linear) if layers else False
        skip = (":last",) if linear and last and len(layers) > 1 else ()
    wanted, unwanted = _chooser("only", only, names), _chooser("skip", skip, names)
    hosts = {name: m for name, m in module.named_modules() if isinstance(m, _PAST_MODULES)}
    findings = []
    for name, layer in layers:
        action, reason = "leave", ""
        host = next((h for h in hosts if name.startswith(f"{h}." if h else "")), None)
        kind = type(layer).__name__
        if isinstance(layer, SinaiLayer):
            action, reason = "keep", "it is a SINAI layer already"
        elif not isinstance(layer, (nn.Conv2d, nn.Linear)):
            reason = f"a {kind} is neither a Conv2d nor a Linear"
        elif isinstance(layer, nn.Linear) and not linear:
            reason = "Linear layers are not asked for"
        elif not wanted(name, layer) or unwanted(name, layer):
            reason = "it is not chosen"
        elif host is not None:
            kind = type(hosts[host]).__name__
            action, reason = "refuse", f"its {kind} reads the weights without calling the layer"
        else:
            reason = obstacle(layer)
            action = "refuse" if reason else "convert"
        findings.append(Finding(name, type(layer).__name__, action, reason))
    return findings


def _chooser(
    argument: str, choice: Choice, names: Sequence[str]
) -> Callable[[str, nn.Module], bool]:
    if callable(choice):
        return choice
    chosen: set[str] = set()
    for pattern in (choice,) if isinstance(choice, str) else choice:
        if pattern in (":first", ":last"):
            fitting = {names[0 if pattern == ":first" else -1]} if names else set()
        else:
            fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting and pattern != "*":
            raise InputError(
                f"{argument}: {pattern!r} fits no layer; give patterns of their names:"
                f" {', '.join(names) or 'none'}"
            )
        chosen |= fitting
    return lambda name, module: name in chosen


def _places(module: nn.Module) -> dict[int, list[str]]:
    """Every path of each module, by its identity."""
    places: dict[int, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        places.setdefault(id(part), []).append(name)
    return places


def layers_of(net: nn.Module) -> Iterator[SinaiLayer]:
    """Yield the converted layers in the order of registration."""
    return (m for m in net.modules() if isinstance(m, SinaiLayer))


@torch.no_grad()
def set_scheme(net: nn.Module, scheme: str | Scheme) -> nn.Module:
    """Give every converted layer of `net` this scheme and return `net`.

    Static thresholds belong to one scheme: another one clears them.
    """
    scheme = scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme)
    for layer in layers_of(net):
        if layer.scheme != scheme:
            layer.theta.fill_(torch.nan)
        layer.scheme = scheme
    return net
