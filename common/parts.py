"""Parts of a layer: what the on-chip store holds at once, and what crosses the chip's border.

With resident accounting an image of a layer is one part, and the memories are checked to hold it.
With a capacity it is split into bands of rows and ranges of channels so that the estimated cycles
are least. The parts of a batch follow each other so that the weights of a range of channels may
stay for all of its images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise, product
from typing import NamedTuple

from .allocation import (
    Allocation,
    Bound,
    Place,
    Shape,
    Transfers,
    groups_of,
    input_rows,
    overflow,
)
from .blocks import block_plan, p_room
from .descriptor import Target, memory_row_bits, transfer_cycles
from .errors import InputError
from .geometry import is_tap, p_rows
from .layer import Layer, ceil_div
from .machine import TAP_NIBBLES, TAP_PIXELS, Machine
from .scheme import Scheme

__all__ = ["Part", "Split", "split"]


@dataclass(frozen=True)
class Part:
    """Output rows [row, row + rows) by channels [channel, channel + channels), in placement order,
    of image `image` of the batch.

    `load_bytes` and `store_bytes` cross the chip's border for it, in `load_words` and `store_words`
    words of the stream. `projects`: the projection unit works for it; otherwise the part before has
    left p of these rows. `releases`: the next part does not need p of these rows. `place`: where in
    the memories it lies, and its transfers.
    """

    row: int
    rows: int
    channel: int
    channels: int
    load_bytes: int
    store_bytes: int
    place: Place
    projects: bool = True
    releases: bool = True
    image: int = 0

    @property
    def load_words(self) -> int:
        return sum(move.words for move in self.place.loads)

    @property
    def store_words(self) -> int:
        return sum(move.words for move in self.place.stores)


class Split(NamedTuple):
    """Parts in order, and the cycles that they take by estimate."""

    cycles: int
    parts: tuple[Part, ...]


def split(layer: Layer, machine: Machine, scheme: Scheme, images: int = 1) -> Split:
    """Cut a layer over a batch of `images` into parts.

    Raises
    ------
    InputError
        If a memory or the projection unit is too small for the layer.
    """
    if not scheme.dense:
        _check_projection(layer, machine)
    if machine.resident:
        bounds = [Bound(0, layer.h_out, 0, layer.c_out, image) for image in range(images)]
        found = Allocation(layer, machine, scheme, bounds)
        if name := overflow(machine, found.need):
            other = ", or set dma.capacity_kib to stream the layer"
            raise _too_small(layer, machine, name, found.need[name], other)
        one = block_plan(layer, machine, scheme, layer.pixels, layer.c_out)[0]
        parts = _parts(machine, bounds, [True] * images, found.places())
        return Split(round(images * one), parts)
    return _stream(layer, machine, scheme, images)


def _stream(layer: Layer, machine: Machine, scheme: Scheme, images: int) -> Split:
    """The parts of least estimated cycles that the store holds."""
    capacity = machine.dma.capacity_kib * 1024
    step = machine.channels_side_by_side
    plan = cache(
        lambda rows, channels, projects: block_plan(
            layer, machine, scheme, rows * layer.w_out, channels, projects
        )[0]
    )
    inputs = cache(partial(input_rows, layer, machine, scheme))
    best: tuple[tuple[int, int], tuple[Part, ...]] | None = None
    # The last candidate has the smallest parts.
    for groups in _splits(groups_of(machine, layer.c_out)):
        for bands in _splits(layer.h_out):
            # Where there is one range or one band, both orders are one.
            for rows_first in (True, False) if groups > 1 and bands * images > 1 else (True,):
                bounds = _bounds(layer, step, groups, bands, rows_first, images)
                if best is not None and _least(bounds, plan) > best[0][0]:
                    continue
                found = Allocation(layer, machine, scheme, bounds, inputs)
                need = found.need
                name = overflow(machine, need)
                if name or _bytes(layer, machine, need) > capacity:
                    continue
                projects = _projects(layer, machine, scheme, bounds)
                cycles = _estimate(machine, bounds, projects, found.transfers(), plan)
                key = (cycles, len(bounds))
                if best is None or key < best[0]:
                    best = key, _parts(machine, bounds, projects, found.places())
    if best is not None:
        return Split(best[0][0], best[1])
    if name and _bytes(layer, machine, need) <= capacity:
        raise _too_small(layer, machine, name, need[name], "")
    raise InputError(
        f"{machine.name}: dma.capacity_kib = {machine.dma.capacity_kib} does not hold the"
        f" smallest part of layer {layer.name}; raise it"
    )


def _least(bounds: list[Bound], plan: Callable[[int, int, bool], float]) -> int:
    """Cycles that these parts take at least: all loaded and projected already."""
    shapes = Counter((bound.rows, bound.channels) for bound in bounds)
    return round(sum(count * plan(*shape, False) for shape, count in shapes.items()))


def _estimate(
    machine: Machine,
    bounds: list[Bound],
    projects: list[bool],
    transfers: list[Transfers],
    plan: Callable[[int, int, bool], float],
) -> int:
    """Cycles of a layer whose parts load, compute and store in a pipeline."""

    @cache
    def cycles(target: Target, rows: int) -> int:
        return transfer_cycles(machine, target, rows)

    def time(moves: tuple[tuple[Target, Shape], ...]) -> int:
        return sum(cycles(target, inner * outer) for target, (inner, outer, _) in moves)

    @cache
    def times(each: Transfers) -> tuple[int, int]:
        return time(each.loads), time(each.stores)

    stream = done = before = 0.0
    for bound, own, each in zip(bounds, projects, transfers, strict=True):
        loads, stores = times(each)
        stream = max(stream, before) + loads
        before, done = done, max(done, stream) + plan(bound.rows, bound.channels, own)
        stream += stores
    return round(max(done, stream))


def _splits(count: int) -> list[int]:
    """1, 2, 4, ... and `count` itself: the numbers of pieces worth trying."""
    return sorted({min(1 << i, count) for i in range(count.bit_length() + 1)})


def _bounds(
    layer: Layer, step: int, groups: int, bands: int, rows_first: bool, images: int
) -> list[Bound]:
    """Rows, channels and image of each part; `rows_first` runs through the bands of all images
    before the next range of channels, which keeps weights, otherwise each band stays for all
    ranges."""
    rows = ceil_div(layer.h_out, bands)
    width = ceil_div(ceil_div(layer.c_out, step), groups) * step
    row_ranges = [(r, min(rows, layer.h_out - r)) for r in range(0, layer.h_out, rows)]
    channel_ranges = [(c, min(width, layer.c_out - c)) for c in range(0, layer.c_out, width)]
    if rows_first:
        order = product(channel_ranges, range(images), row_ranges)
        return [Bound(*rows, *channels, image) for channels, image, rows in order]
    order = product(range(images), row_ranges, channel_ranges)
    return [Bound(*rows, *channels, image) for image, rows, channels in order]


def _projects(layer: Layer, machine: Machine, scheme: Scheme, bounds: list[Bound]) -> list[bool]:
    """Whether the projection unit works for each part: p of a band stays for its next range of
    channels where the whole band fits."""
    room = 0 if scheme.dense else p_room(layer, machine) // layer.w_out
    bands = [(bound.image, bound.row, bound.rows) for bound in bounds]
    return [True, *(one != two or two[2] > room for one, two in pairwise(bands))]


def _parts(
    machine: Machine, bounds: list[Bound], projects: list[bool], places: tuple[Place, ...]
) -> tuple[Part, ...]:
    width = machine.dma.bytes_per_cycle
    return tuple(
        Part(
            *bound[:4],
            image=bound.image,
            load_bytes=width * sum(move.words for move in place.loads),
            store_bytes=width * sum(move.words for move in place.stores),
            place=place,
            projects=own,
            releases=after,
        )
        for bound, place, own, after in zip(
            bounds, places, projects, [*projects[1:], True], strict=True
        )
    )


def _bytes(layer: Layer, machine: Machine, need: dict[str, int]) -> int:
    """Bytes on chip, p and masks apart; of the residual, those of the halves in use."""
    halves = {"residual": layer.residual + bool(layer.joined)}
    return sum(
        ceil_div(halves.get(name, 1) * rows * memory_row_bits(machine, name), 8)
        for name, rows in need.items()
    )


def _too_small(layer: Layer, machine: Machine, name: str, rows: int, other: str) -> InputError:
    capacity = getattr(machine.memories, name).capacity_kib
    # The residual has two halves of equal size.
    size = ceil_div(rows * memory_row_bits(machine, name) * (1 + (name == "residual")), 8192)
    return InputError(
        f"{machine.name}: layer {layer.name} needs {size} KiB of the {name} memory, which holds"
        f" {capacity}; raise memories.{name}.capacity_kib{other}"
    )


def _check_projection(layer: Layer, machine: Machine) -> None:
    """What the projection unit takes."""
    rows = p_rows(layer)
    if rows > machine.rpu.depth:
        raise InputError(
            f"{machine.name}: layer {layer.name} projects to {rows} rows of P, and rpu.depth ="
            f" {machine.rpu.depth} is the most; raise it"
        )
    if not is_tap(layer):
        return
    nibbles = min(TAP_NIBBLES, 16 * machine.pses)
    if rows > nibbles:
        raise InputError(
            f"{machine.name}: layer {layer.name}: k / taps must be at most {nibbles} for projection"
            f" tap, not {rows}; take projection patch"
        )
    if layer.kernel * layer.w_in > TAP_PIXELS:
        raise InputError(
            f"layer {layer.name}: kernel * w_in must be at most {TAP_PIXELS} for projection tap,"
            f" not {layer.kernel * layer.w_in}; take projection patch"
        )
