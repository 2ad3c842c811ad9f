"""Random layers with operands: what tests, soak and validation feed to RTL, simulator and model.

A case is named by its machine and its seed, so a failing one is a single command.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .integer import IntegerLayer, LayerRun, run_layer
from .layer import Layer
from .machine import Machine
from .operands import Operands
from .scheme import Scheme

__all__ = ["Case", "operands_of", "random_case", "random_layer", "random_spec", "simpler"]

_INT16 = 1 << 15


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
    """

    operands: Operands
    scheme: Scheme
    theta: int | None
    seed: int

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
    """Return case `seed` of `machine`: equal arguments give equal cases."""
    rng = np.random.default_rng(seed)
    layer = random_layer(rng)
    spec = random_spec(rng, layer)
    schemes = ["dense", "unstructured:0.5"]
    if not machine.unstructured:
        schemes += [f"structured:{q}:8" for q in range(9)]
    weights = np.array([1.0] + [4.0] + [1.0] * (len(schemes) - 2))
    scheme = Scheme.parse(str(rng.choice(schemes, p=weights / weights.sum())))
    theta = None
    if scheme.kind == "unstructured":
        ends = (-_INT16, _INT16, 0, int(rng.integers(-_INT16, _INT16)))
        theta = int(rng.choice(ends, p=[0.1, 0.1, 0.4, 0.4]))
    mask = None
    if scheme.kind == "unstructured" and rng.integers(0, 3) == 0:
        share = rng.choice([0, 0.02, 0.2, 0.8, 1])
        mask = rng.random((layer.pixels, layer.c_out)) < share
    return Case(operands_of(rng, spec, machine, mask), scheme, theta, seed)


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


def simpler(case: Case, machine: Machine) -> Iterator[Case]:
    """Cases a step smaller in one way each: what a failing case is shrunk by."""
    layer = case.layer
    halves = {
        name: max(1, getattr(layer, name) // 2)
        for name in ("c_in", "c_out")
        if getattr(layer, name) > 1
    }
    smaller = [{name: value} for name, value in halves.items()]
    for side in ("h_in", "w_in"):
        if getattr(layer, side) > layer.kernel:
            smaller.append({side: getattr(layer, side) - 1})
    if layer.stride > 1:
        smaller.append({"stride": 1})
    if layer.residual:
        smaller.append({"residual": False})
    if layer.joined:
        smaller.append({"joined": ""})
    for change in smaller:
        tap, depth = layer.projection == "tap", change.get("c_in", layer.c_in) * layer.taps
        k = layer.k if tap else min(layer.k, depth)
        changed = replace(layer, k=k, **change)
        rng = np.random.default_rng(case.seed)
        spec = random_spec(rng, changed)
        mask = None
        if case.operands.mask is not None:
            mask = rng.random((changed.pixels, changed.c_out)) < case.operands.mask.mean()
        yield replace(case, operands=operands_of(rng, spec, machine, mask))
