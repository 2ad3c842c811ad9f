"""Simulate a trace on a machine: the entry point of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.contract import CONTRACT, STALL_CAUSES, Contract
from ..common.errors import InputError
from ..common.layer import Layer, ceil_div
from ..common.machine import Machine
from ..common.placement import place_channels
from ..common.program import Program, compile_layer
from ..common.scheme import Scheme
from ..traces.schema import Trace
from .counts import EVENTS
from .engine import simulate_layer
from .layer_run import LayerRun, Span, Step
from .stepped import step_layer

__all__ = ["ENGINES", "Result", "batches_of", "bound", "placements", "simulate"]

#: Names of the engines.
ENGINES = ("fast", "stepped")

_SLOTS = ("useful", "idle_pixels", "idle_channels", "idle_imbalance")


@dataclass(frozen=True)
class Result:
    """What a simulation gives.

    Parameters
    ----------
    trace : Trace
        What was simulated.
    machine : Machine
        On what.
    scheme : Scheme
        Of the trace, or `dense` where asked for.
    engine : str
        ``fast``: runs of beats in closed form, transfers as SimPy events. ``stepped``: SimPy, an
        event a beat. Both give the same counts, to the cycle.
    ideal : bool
        True for the bound without stalls or imbalance, which no machine reaches.
    batch : int
        Images computed together; every figure is of a batch.
    layers : DataFrame
        One row a batch and layer: image (the first of the batch), layer, kind, cycles, busy_cycles,
        stall_* (with busy_cycles they sum to cycles), busy_approximate (part of busy_cycles),
        shallow_approximate (part of stall_shallow), slots_* (they sum to V * T * busy_cycles),
        essential, neurons, macs16 and macs4 (geometric, one multiply-add each), cycles_load and
        cycles_store (outside cycles with resident accounting).
    counts : DataFrame
        Same rows; one column for each of :data:`sinai.sim.counts.EVENTS`.
    spans : tuple
        For each of these rows what was under way when, in cycles since the start of the layer;
        empty unless a timeline was asked for.
    steps : tuple
        For each of these rows its steps, in order, with first and last issue.
    """

    trace: Trace
    machine: Machine
    scheme: Scheme
    engine: str
    ideal: bool
    layers: pd.DataFrame
    counts: pd.DataFrame
    spans: tuple[tuple[Span, ...], ...] = ()
    batch: int = 1
    steps: tuple[tuple[Step, ...], ...] = ()

    @property
    def cycles(self) -> float:
        """Cycles of a batch, by default of one image; mean over the batches."""
        return float(self.layers.groupby("image")["cycles"].sum().mean())

    @property
    def noise(self) -> float:
        """Measured share of noisy neurons."""
        return 1 - float(self.layers["essential"].sum() / self.layers["neurons"].sum())


def simulate(
    trace: Trace,
    machine: Machine,
    *,
    images: Sequence[int] | None = None,
    batch: int = 1,
    dense: bool = False,
    ideal: bool = False,
    placement: bool = True,
    engine: str = "fast",
    timeline: bool = False,
    contract: Contract = CONTRACT,
) -> Result:
    """Replay the masks of `trace` on `machine`.

    Parameters
    ----------
    trace : Trace
        Masks and geometry; its scheme must run on the machine.
    images : sequence of int, optional
        Positions of the images in the trace; all by default.
    batch : int
        Images that pass a layer together, before the next layer: consecutive ones of `images`, in
        the order of the trace. What is left over after the last whole batch is not simulated.
    dense : bool
        Ignore the masks and compute every neuron exactly, without approximate pass.
    ideal : bool
        Unstructured machine only: replace each layer's cycles by the bound of full lanes,
        ceil(B E / V) plus the approximate pass likewise; no stall, no imbalance, no wait for
        the projection.
    placement : bool
        Unstructured machine only: place channels on lanes by their calibrated density.
    engine : {"fast", "stepped"}
        The stepped engine gives the same result, far slower.
    timeline : bool
        Keep `spans`; engine stepped only, and not with `ideal`.
    contract : Contract
        Latencies; the published ones by default.

    Raises
    ------
    InputError
        If the scheme does not run on the machine, a memory is too small, an image is not there,
        there are fewer than a batch, or the engine does not give what is asked for.
    """
    if engine not in ENGINES:
        raise InputError(f"engine must be {' or '.join(ENGINES)}, not {engine!r}")
    if timeline and engine == "fast":
        raise InputError("a timeline comes from engine stepped, not from fast; choose stepped")
    if timeline and ideal:
        raise InputError("the ideal bound has no timeline; leave out one of the two")
    if ideal and not machine.unstructured:
        raise InputError(
            f"{machine.name}: the ideal bound is defined for unstructured machines only"
        )
    scheme = Scheme.parse("dense") if dense else trace.scheme
    chosen = batches_of(trace, batch, images)
    regular = scheme.dense or scheme.structured
    orders = placements(trace, machine) if placement and not regular else {}
    rows: list[tuple[int, int, LayerRun]] = []
    for index, layer in enumerate(trace.layers):
        if regular:
            try:
                of_batch = (_anonymous(layer), machine, scheme, batch)
                run = _maskless_run(*of_batch, contract, engine, timeline)
            except InputError:
                compile_layer(layer, machine, scheme, batch)  # the same, naming the layer
                raise
            rows += [(number, index, run) for number in range(len(chosen))]
            continue
        program = compile_layer(layer, machine, scheme, batch)
        masks = trace.mask(index)
        for number, picked in enumerate(chosen):
            mask = masks[picked].reshape(batch, layer.c_out, layer.pixels).transpose(0, 2, 1)
            if index in orders:
                mask = mask[..., orders[index]]
            rows.append((number, index, _run(program, mask, contract, engine, timeline)))
    rows.sort(key=lambda row: row[:2])
    result = Result(
        trace,
        machine,
        scheme,
        engine,
        False,
        pd.DataFrame(
            [_layer_row(chosen[i][0], trace.layers[n], batch, scheme, run) for i, n, run in rows]
        ),
        pd.DataFrame([_count_row(trace.layers[n], run) for _, n, run in rows]),
        tuple(run.spans for _, _, run in rows) if timeline else (),
        batch,
        tuple(run.steps for _, _, run in rows),
    )
    return bound(result) if ideal else result


def batches_of(trace: Trace, batch: int, images: Sequence[int] | None = None) -> list[list[int]]:
    """Positions of the images of each whole batch, in order; `images` as for :func:`simulate`.

    Raises
    ------
    InputError
        If an image is not there, or there are fewer than a batch.
    """
    chosen = sorted(range(trace.images) if images is None else images)
    for image in chosen:
        if not 0 <= image < trace.images:
            raise InputError(f"image must be between 0 and {trace.images - 1}, not {image}")
    if not 1 <= batch <= len(chosen):
        raise InputError(
            f"trace {trace.name}: batch must be between 1 and the {len(chosen)} image(s) to be"
            f" simulated, not {batch}; give a smaller batch or a trace of more images"
        )
    return [chosen[first : first + batch] for first in range(0, len(chosen) - batch + 1, batch)]


def bound(result: Result) -> Result:
    """Return the bound without stalls or imbalance of a result of an unstructured machine: the same
    events, in the cycles that lanes full at all times would take.

    Raises
    ------
    InputError
        If the machine is structured.
    """
    machine, layers = result.machine, result.trace.layers
    if not machine.unstructured:
        raise InputError(
            f"{machine.name}: the ideal bound is defined for unstructured machines only"
        )
    rows = []
    for row, layer in zip(result.layers.to_dict("records"), cycle(layers), strict=False):
        exact = row["essential"] * layer.beats(machine.pses)
        beats = 0 if result.scheme.dense else layer.approximate_beats(machine.pses)
        rough = row["neurons"] * beats
        approximate = ceil_div(rough, machine.lanes)
        busy = approximate + ceil_div(exact, machine.lanes)
        slots = {f"slots_{kind}": 0 for kind in _SLOTS}
        slots["slots_useful"] = exact + rough
        slots["slots_idle_imbalance"] = machine.lanes * busy - exact - rough
        times = {"cycles": busy, "busy_cycles": busy, "busy_approximate": approximate}
        stalls = {f"stall_{cause}": 0 for cause in STALL_CAUSES} | {"shallow_approximate": 0}
        rows.append(row | times | stalls | slots)
    return replace(result, ideal=True, layers=pd.DataFrame(rows))


def _run(
    program: Program,
    mask: NDArray[np.bool_] | None,
    contract: Contract,
    engine: str,
    timeline: bool,
) -> LayerRun:
    if engine == "fast":
        return simulate_layer(program, mask, contract)
    return step_layer(program, mask, contract, record=timeline)


@lru_cache(maxsize=4096)
def _maskless_run(
    layer: Layer,
    machine: Machine,
    scheme: Scheme,
    batch: int,
    contract: Contract,
    engine: str,
    timeline: bool,
) -> LayerRun:
    """Layers of one geometry take the same cycles where no mask decides the work."""
    return _run(compile_layer(layer, machine, scheme, batch), None, contract, engine, timeline)


def _anonymous(layer: Layer) -> Layer:
    """The layer without what does not change its cycles, so that equal layers run once."""
    return replace(layer, name="", projection_nonzeros=0, joined="residual" if layer.joined else "")


def placements(trace: Trace, machine: Machine) -> dict[int, NDArray[np.intp]]:
    """Placement order of each layer on an unstructured machine, by its calibrated densities.

    Layers joined by a residual share one, from their densities weighted by their work.
    """
    if not machine.unstructured:
        return {}
    loads: dict[str, NDArray[np.float64]] = {}
    for index, layer in enumerate(trace.layers):
        density = trace.density(index)
        if density is None:
            continue
        key = layer.joined or f"layer {index}"
        work = density.astype(np.float64) * layer.pixels * layer.beats(machine.pses)
        loads[key] = loads.get(key, 0.0) + work
    orders = {key: place_channels(load, machine.lanes) for key, load in loads.items()}
    return {
        index: orders[key]
        for index, layer in enumerate(trace.layers)
        if (key := layer.joined or f"layer {index}") in orders
    }


def _layer_row(image: int, layer: Layer, batch: int, scheme: Scheme, run: LayerRun) -> dict:
    return {
        "image": image,
        "layer": layer.name,
        "kind": "conv",
        "cycles": run.cycles,
        "busy_cycles": run.busy,
        **{f"stall_{cause}": run.stalls[cause] for cause in STALL_CAUSES},
        "busy_approximate": run.busy_approximate,
        "shallow_approximate": run.shallow_approximate,
        **{f"slots_{kind}": run.slots.get(kind, 0) for kind in _SLOTS},
        "essential": run.essential,
        "neurons": batch * layer.neurons,
        "macs16": run.essential * layer.d,
        "macs4": 0 if scheme.dense else batch * layer.neurons * layer.k,
        "cycles_load": run.cycles_load,
        "cycles_store": run.cycles_store,
    }


def _count_row(layer: Layer, run: LayerRun) -> dict:
    counts = dict.fromkeys(EVENTS, 0) | run.counts
    counts["rpu.add"] = run.projected * layer.projection_nonzeros
    return counts
