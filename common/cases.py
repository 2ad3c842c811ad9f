"""Random layers with operands, and random machines: what tests and soak feed to RTL, simulator and
integer model.

A case is named by its machine and its seed, so a failing one is a single command.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from .commands import commands
from .errors import InputError
from .integer import IntegerLayer, LayerRun, run_layer
from .layer import Layer
from .machine import PRESETS, Machine, override
from .operands import Operands
from .program import compile_layer
from .scheme import Scheme

__all__ = [
    "Case",
    "accounted_case",
    "companions",
    "operands_of",
    "random_case",
    "random_layer",
    "random_machine",
    "random_spec",
    "simpler",
    "simplified",
]

_INT16 = 1 << 15

#: Layers drawn for a case until one fits its machine; more mean that hardly any does.
_DRAWS = 200


@dataclass(frozen=True, eq=False)
class Case:
    """A layer with its numbers.

    Parameters
    ----------
    operands : Operands
        Of one image; its spec has the layer.
    scheme : Scheme
    theta : int or None
        Threshold of an unstructured scheme.
    seed : int
        What it was made from.
    refused : int
        Layers drawn before that the machine has no room for.
    """

    operands: Operands
    scheme: Scheme
    theta: int | None
    seed: int
    refused: int = 0

    @property
    def layer(self) -> Layer:
        return self.operands.spec.layer

    def reference(self) -> LayerRun:
        """The integer model of the layer."""
        data = self.operands
        residual = None if data.residual is None else data.residual[None]
        mask = None if data.mask is None else data.mask[None]
        return run_layer(
            data.spec, data.x[None], data.xq[None], residual, self.scheme, self.theta, mask
        )

    def __str__(self) -> str:
        layer = self.layer
        return (
            f"seed {self.seed}: {self.scheme}, theta {self.theta}, {layer.kernel}x{layer.kernel}"
            f" stride {layer.stride} padding {layer.padding}, {layer.h_in}x{layer.w_in}x"
            f"{layer.c_in} to {layer.c_out}, k {layer.k} {layer.projection}"
        )


def random_layer(rng: np.random.Generator) -> Layer:
    """A small layer: K 1, 3 or 7, stride 1 or 2, any padding that is usual, odd sizes and channels
    that divide nothing; one pixel and one channel included."""
    kernel = int(rng.choice([1, 3, 7], p=[0.3, 0.5, 0.2]))
    c_in, taps = int(rng.integers(1, 14)), kernel**2
    tap = bool(rng.integers(0, 2))
    depth = taps * c_in
    return Layer(
        name="random",
        c_in=c_in,
        c_out=int(rng.integers(1, 40)),
        kernel=kernel,
        stride=int(rng.integers(1, 3)),
        padding=int(rng.choice([0, kernel // 2])),
        h_in=int(rng.integers(kernel, kernel + 7)),
        w_in=int(rng.integers(kernel, kernel + 7)),
        k=taps * 4 * int(rng.integers(1, 4)) if tap else int(rng.integers(1, min(depth, 60) + 1)),
        projection="tap" if tap else "patch",
        unsigned_input=bool(rng.integers(0, 2)),
        residual=bool(rng.integers(0, 2)),
        joined="stage" if rng.integers(0, 3) == 0 else "",
    )


def random_spec(rng: np.random.Generator, layer: Layer) -> IntegerLayer:
    """Weights, parameters and shifts over their whole ranges; saturation is common."""

    def int16(*shape: int) -> NDArray[np.int16]:
        return rng.integers(-_INT16, _INT16, shape).astype(np.int16)

    count, tap = layer.c_out, layer.projection == "tap"
    # One layer in eight has noise that is the same everywhere: ties in every group.
    flat = rng.integers(0, 8) == 0
    noise = rng.integers(-8, 8, (count, layer.k)) * (0 if flat else 1)
    noise_bias = rng.integers(-2000, 2000, count) * (0 if flat else 1)
    return IntegerLayer(
        layer=layer,
        source="",
        residual="",
        weight=int16(count, layer.d),
        bias=rng.integers(-(1 << 31), 1 << 31, count).astype(np.int32),
        multiplier=int16(count),
        shift=int(rng.integers(20, 44)),
        matrix=rng.integers(
            -1,
            2,
            (layer.k // layer.taps, layer.c_in) if tap else (layer.k, layer.d),
        ).astype(np.int8),
        matrix_shift=int(rng.integers(0, 6)),
        noise_weight=noise.astype(np.int8),
        noise_bias=noise_bias.astype(np.int32),
        noise_multiplier=int16(count),
        noise_shift=int(rng.integers(0, 14)),
        gain=int16(count),
        offset=int16(count),
        gain_shift=int(rng.integers(0, 18)),
        relu=bool(rng.integers(0, 2)),
        quantise_shift=int(rng.integers(0, 14)),
        unsigned=bool(rng.integers(0, 2)),
        scale=1.0,
    )


def random_case(seed: int, machine: Machine) -> Case:
    """Return case `seed` of `machine`: equal arguments give equal cases.

    A layer that the machine refuses, for want of memory, is drawn again; masks that do not fit are
    selected instead of loaded.

    Raises
    ------
    InputError
        If that does not come to an end.
    """
    rng = np.random.default_rng(seed)
    refused = 0
    while True:
        layer = random_layer(rng)
        spec = random_spec(rng, layer)
        schemes = ["dense", "unstructured:0.5"]
        if not machine.unstructured:
            schemes += [f"structured:{q}:8" for q in range(9)]
        weights = np.array([1.0] + [4.0] + [1.0] * (len(schemes) - 2))
        scheme = Scheme.parse(str(rng.choice(schemes, p=weights / weights.sum())))
        if _fits(layer, machine, scheme):
            break
        refused += 1
        if refused == _DRAWS:
            raise InputError(
                f"{machine.name}: none of {_DRAWS} random layers fits; give it more memory"
            )
    theta = None
    if scheme.kind == "unstructured":
        ends = (-_INT16, _INT16, 0, int(rng.integers(-_INT16, _INT16)))
        theta = int(rng.choice(ends, p=[0.1, 0.1, 0.4, 0.4]))
    mask = None
    if scheme.kind == "unstructured" and rng.integers(0, 3) == 0:
        share = rng.choice([0, 0.02, 0.2, 0.8, 1])
        mask = rng.random((layer.pixels, layer.c_out)) < share
        if not _fits(layer, machine, scheme, spec):
            mask = None
    return Case(operands_of(rng, spec, machine, mask), scheme, theta, seed, refused)


def companions(case: Case, machine: Machine, images: int) -> tuple[Case, ...]:
    """A batch: `case` and images - 1 more of the same layer, numbers, scheme and placement, each
    with inputs and, where there are any, a mask and a theta of its own."""
    made, first = [case], case.operands
    for image in range(1, images):
        rng = np.random.default_rng([case.seed, image])
        mask = first.mask
        if mask is not None:
            mask = rng.random(mask.shape) < rng.choice([0, 0.02, 0.2, 0.8, 1])
        theta = case.theta
        if theta is not None:
            theta = int(rng.integers(-_INT16, _INT16 + 1))
        operands = operands_of(rng, first.spec, machine, mask)
        made.append(replace(case, operands=replace(operands, order=first.order), theta=theta))
    return tuple(made)


def _fits(
    layer: Layer, machine: Machine, scheme: Scheme, injected: IntegerLayer | None = None
) -> bool:
    """Whether the machine has room for a layer, and for its masks if those of `injected` numbers
    are loaded."""
    try:
        program = compile_layer(layer, machine, scheme)
        if injected:
            commands(program, injected, inject=True)
    except InputError:
        return False
    return True


def operands_of(
    rng: np.random.Generator,
    spec: IntegerLayer,
    machine: Machine,
    mask: NDArray[np.bool_] | None = None,
) -> Operands:
    """Random inputs of a layer; on an unstructured machine a random placement too."""
    layer = spec.layer
    size = (layer.h_in, layer.w_in, layer.c_in)
    low, high = (0, 16) if layer.unsigned_input else (-8, 8)
    return Operands(
        spec=spec,
        x=rng.integers(-_INT16, _INT16, size).astype(np.int16),
        xq=rng.integers(low, high, size).astype(np.int8),
        residual=(
            rng.integers(-_INT16, _INT16, (layer.pixels, layer.c_out)).astype(np.int16)
            if layer.residual
            else None
        ),
        mask=mask,
        order=rng.permutation(layer.c_out) if machine.unstructured else None,
    )


def random_machine(seed: int) -> tuple[str, list[str], Machine]:
    """Return machine `seed`, structured if that is even: a preset, what is set in it, and the
    machine. Its core compiles in less than a minute.

    Lanes, columns and multipliers, accumulators, windows, projection unit, stream and memories are
    drawn; what is drawn as the preset has it is not set. Accounting, which is no hardware, is drawn
    with each case: :func:`accounted_case`.
    """
    rng = np.random.default_rng([seed, 1])
    preset = PRESETS["unstructured-small" if seed % 2 else "structured-small"]
    while True:
        drawn = _draw_machine(rng, preset.unstructured)
        if drawn["lanes"] * drawn.get("columns", 1) * drawn["pses"] > 32:
            continue
        sets = [f"{key}={value}" for key, value in drawn.items() if value != _value(preset, key)]
        try:
            return preset.name, sets, override(preset, sets)
        except InputError:  # a rule over several keys
            continue


def _draw_machine(rng: np.random.Generator, unstructured: bool) -> dict[str, int]:
    def one_of(*values: int) -> int:
        return int(rng.choice(values))

    drawn = {"lanes": one_of(1, 2, 4, 8), "pses": one_of(1, 2, 4, 8)}
    drawn["accumulators"] = one_of(8, 16, 32)
    if unstructured:
        drawn["window"] = one_of(1, 2, 4, 8, 16)
    else:
        drawn["columns"] = one_of(1, 2, 4, 8)
        drawn["weight_words"] = one_of(1, 2, 4, 8)
        drawn["collector"] = int(rng.integers(1, 9))
    drawn["rpu.rows"] = one_of(1, 2, 4, 8, 16)
    drawn["rpu.elements"] = one_of(16, 32, 64, 128)
    drawn["rpu.hold"] = int(rng.integers(1, 13))
    drawn["rpu.port_bits"] = one_of(4, 8, 16, 32, 64, 128, 256)
    drawn["rpu.depth"] = drawn["rpu.rows"] * int(rng.integers(4, 17))
    drawn["dma.bytes_per_cycle"] = one_of(1, 2, 4, 8, 16, 32, 64)
    for name, most in (("x", 64), ("y", 64), ("residual", 64), ("xq", 32), ("p", 16), ("masks", 8)):
        if rng.integers(0, 2):
            drawn[f"memories.{name}.capacity_kib"] = int(rng.integers(most // 4, most + 1))
    return drawn


def accounted_case(seed: int, machine: Machine) -> tuple[list[str], Machine, Case]:
    """Draw an accounting for `machine` and a case for both: what is set, the machine, the case.

    Weights are resident in one of three; otherwise all is streamed under a capacity that holds such
    layers, whole or in parts. One core computes with any of them.
    """
    rng, refused = np.random.default_rng([seed, 2]), 0
    while True:
        capacity = int(rng.integers(4, 25)) if rng.integers(0, 3) else None
        sets = [f"dma.capacity_kib={capacity}"] if capacity else []
        accounted = override(machine, sets)
        try:
            case = random_case(seed, accounted)
            return sets, accounted, replace(case, refused=case.refused + refused)
        except InputError:  # hardly a layer fits
            refused += _DRAWS
            if capacity is None:
                raise


def _value(machine: Machine, key: str) -> object:
    value: object = machine
    for name in key.split("."):
        value = getattr(value, name)
    return value


def simplified(case: Case, machine: Machine, path: tuple[int, ...]) -> Case:
    """The case that is reached from `case` by a path through :func:`simpler`: which of the simpler
    cases to take, from 0, again and again.

    Raises
    ------
    InputError
        If there is no such case.
    """
    for index in path:
        chosen = next(islice(simpler(case, machine), index, None), None)
        if chosen is None:
            raise InputError(
                f"--simpler: {case} has no simpler case {index}; give a smaller number"
            )
        case = chosen
    return case


def simpler(case: Case, machine: Machine) -> Iterator[Case]:
    """Cases a step smaller in one way each, which the machine has room for: what a failing case is
    shrunk by. They keep scheme, theta and seed."""
    for layer in _smaller(case.layer):
        if not _fits(layer, machine, case.scheme):
            continue
        rng = np.random.default_rng(case.seed)
        spec = random_spec(rng, layer)
        mask = None
        if case.operands.mask is not None:
            if not _fits(layer, machine, case.scheme, spec):
                continue
            mask = rng.random((layer.pixels, layer.c_out)) < case.operands.mask.mean()
        yield replace(case, operands=operands_of(rng, spec, machine, mask))


def _smaller(layer: Layer) -> Iterator[Layer]:
    """Layers with one number halved or one less, or without one property."""
    kernel, unit = layer.kernel, layer.taps if layer.projection == "tap" else 1
    changes: list[dict[str, int | bool | str]] = []
    for name in ("c_out", "c_in"):
        value = getattr(layer, name)
        changes += [{name: less} for less in sorted({value // 2, value - 1} - {0})]
    changes += [{"k": less * unit} for less in sorted({layer.k // unit // 2} - {0})]
    for side in ("h_in", "w_in"):
        value = getattr(layer, side)
        changes += [
            {side: less} for less in sorted({value // 2, value - 1} - {value}) if less >= kernel
        ]
    if layer.stride > 1:
        changes.append({"stride": 1})
    if layer.padding:
        changes.append({"padding": 0})
    if kernel > 1:
        less = kernel // 2 | 1
        k = layer.k // unit * (less**2 if unit > 1 else 1)
        changes.append({"kernel": less, "padding": min(layer.padding, less // 2), "k": k})
    if layer.residual:
        changes.append({"residual": False})
    if layer.joined:
        changes.append({"joined": ""})
    for change in changes:
        wanted = {"k": layer.k, "c_in": layer.c_in, "kernel": kernel, **change}
        if layer.projection == "patch":
            change["k"] = min(wanted["k"], wanted["c_in"] * wanted["kernel"] ** 2)
        yield replace(layer, **change)
