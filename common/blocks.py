"""How deep a block of pixels may be and should be: accumulators, p memory, estimated cycles."""

from __future__ import annotations

from .errors import InputError
from .layer import Layer, ceil_div
from .machine import Machine
from .scheme import GROUP, Scheme

__all__ = ["block_plan", "p_room"]


def block_plan(
    layer: Layer,
    machine: Machine,
    scheme: Scheme,
    pixels: int,
    channels: int,
    projects: bool = True,
) -> tuple[float, int]:
    """Return the estimated cycles of a part, and the depth of its blocks that gives them.

    Deep blocks reload weights less often; shallow ones let the first exact tile start before the
    projection unit has finished much of the layer. Of equal depths the deeper wins: less energy.
    """
    batches = ceil_div(pixels, machine.columns)
    depth = min(_deepest(layer, machine, scheme), batches)
    rpu, beats = machine.rpu, layer.beats(machine.pses)
    rough_beats = 0 if scheme.dense else layer.approximate_beats(machine.pses)
    inner = (
        (layer.k, layer.d) if layer.projection == "patch" else (layer.k // layer.taps, layer.c_in)
    )
    project = ceil_div(inner[0], rpu.rows) * ceil_div(inner[1], rpu.elements) * machine.columns
    if scheme.dense or not projects:
        project = 0
    share = float(1 - scheme.ratio)
    tiles = 1 if machine.unstructured else ceil_div(channels, machine.channels_side_by_side)
    rows = ceil_div(channels, machine.channels_side_by_side) * (
        1 if machine.unstructured else GROUP
    )
    if machine.unstructured:
        load, shallowest = 0, machine.window
        # An x word enters the window a cycle; a pixel without essential neuron needs none.
        per_batch = max(rows * share, 1 - (1 - share) ** channels)
    else:
        load, shallowest = ceil_div(GROUP, machine.weight_words), 1
        per_batch = GROUP * share
    best = (0.0, 0)
    while True:
        ready = done = 0.0
        for first in range(0, batches, depth):
            count = min(depth, batches - first)
            ready += project * count
            work = tiles * beats * max(load, count * per_batch)
            done = max(done, ready) + work + rough_beats * rows * max(count, 4)
        if not best[1] or done < best[0]:
            best = (done, depth)
        if scheme.dense or depth // 2 < shallowest:
            return best
        depth //= 2


def _deepest(layer: Layer, machine: Machine, scheme: Scheme) -> int:
    """Most batches a block may have: accumulators, and p memory for two blocks."""
    if machine.unstructured:
        deepest = machine.accumulators
    else:
        # A batch takes as many accumulators as its deepest group may need.
        need = max(1, scheme.essential_of_group) if scheme.structured else GROUP
        deepest = machine.accumulators // need
    if scheme.dense:
        return deepest
    room = p_room(layer, machine) // 2
    if room < max(machine.columns, machine.rpu.hold):
        raise InputError(
            f"{machine.name}: memories.p.capacity_kib = {machine.memories.p.capacity_kib} is too"
            f" small for layer {layer.name}, which needs room for {2 * machine.columns} pixels and"
            f" for twice rpu.hold = {machine.rpu.hold}; raise it"
        )
    return min(deepest, room // machine.columns)


def p_room(layer: Layer, machine: Machine) -> int:
    """Pixels of the layer whose projection p the p memory holds."""
    beats = layer.approximate_beats(machine.pses)
    return machine.memories.p.capacity_kib * 8192 // machine.word_bits("p") // beats
