"""How deep a block of pixels may be and should be: accumulators, p memory, estimated cycles."""

from __future__ import annotations

from typing import NamedTuple

from .descriptor import memory_depth
from .errors import InputError
from .geometry import element_tiles, is_tap, row_tiles, xq_feed
from .layer import Layer, ceil_div
from .machine import Machine
from .scheme import GROUP, Scheme

__all__ = ["Pieces", "block_plan", "p_batches", "p_room", "pieces"]


class Pieces(NamedTuple):
    """`count` near-equal pieces, the larger first: `more` of depth + 1, the others of `depth`."""

    count: int
    depth: int
    more: int

    @property
    def deepest(self) -> int:
        return self.depth + (self.more > 0)

    @property
    def sizes(self) -> list[int]:
        return [self.depth + (index < self.more) for index in range(self.count)]


def pieces(total: int, deepest: int) -> Pieces:
    """Cut `total` into the fewest near-equal pieces of at most `deepest`."""
    count = ceil_div(total, deepest)
    return Pieces(count, *divmod(total, count))


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
    beats = layer.beats(machine.pses)
    rough_beats = 0 if scheme.dense else layer.approximate_beats(machine.pses)
    project = 0
    if projects and not scheme.dense:
        project = _projection(layer, machine) * machine.columns
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
        whole, rest = divmod(batches, depth)
        for times, count in ((whole, depth), (rest > 0, rest)):
            work = tiles * beats * max(load, count * per_batch)
            rough = rough_beats * rows * max(count, 4)
            for _ in range(times):
                ready += project * count
                done = (ready if ready > done else done) + work + rough
        if not best[1] or done < best[0]:
            best = (done, depth)
        if scheme.dense or depth // 2 < shallowest:
            return best
        depth //= 2


def _projection(layer: Layer, machine: Machine) -> float:
    """Cycles that the projection unit takes an output pixel: of each element tile, the longer of
    its adders and the gathering of its words; for `tap`, of the input pixels and the copies."""
    rpu, feed = machine.rpu, xq_feed(layer, machine, 0, 1)
    tap, tiles = is_tap(layer), element_tiles(layer, machine)
    words = feed.words if tap else feed.beats
    single = row_tiles(layer, machine) * tiles == 1
    adders = 1 if single else row_tiles(layer, machine) * max(1.0, rpu.load_cycles / rpu.hold)
    cycles = tiles * max(adders, words / tiles)
    if tap:
        return cycles * layer.h_in * layer.w_in / layer.pixels + layer.taps
    return cycles


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


def p_batches(layer: Layer, machine: Machine) -> int:
    """Batches of T pixels of the layer whose projection p the p memory holds."""
    return memory_depth(machine, "p") // layer.approximate_beats(machine.pses)


def p_room(layer: Layer, machine: Machine) -> int:
    """Pixels of the layer whose projection p the p memory holds."""
    return p_batches(layer, machine) * machine.columns
