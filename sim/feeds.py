"""What feeds the vector unit, as SimPy processes: the DMA channel and the projection unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import numpy as np
import simpy

from ..common.blocks import p_room
from ..common.contract import Contract
from ..common.layer import ceil_div
from ..common.parts import Part
from ..common.program import Program

__all__ = ["Process", "ProjectionUnit", "Store"]

Process = Generator[simpy.Event, int, None]


class Store:
    """The DMA channel: loads the parts, two at a time on chip, and stores their outputs."""

    def __init__(self, env: simpy.Environment, program: Program):
        self.env, self.program = env, program
        self.channel = simpy.Resource(env)
        self.ready = [env.event() for _ in program.parts]
        self.computed = [env.event() for _ in program.parts]
        self.stored = [env.event() for _ in program.parts]
        if program.machine.resident:
            for event in (*self.ready, *self.stored):
                event.succeed(0)
        else:
            env.process(self._load())
            for index, part in enumerate(program.parts):
                env.process(self._drain(index, part))

    def _move(self, size: int) -> Process:
        with self.channel.request() as granted:
            yield granted
            yield self.env.timeout(ceil_div(size, self.program.machine.dma.bytes_per_cycle))

    def _load(self) -> Process:
        for index, part in enumerate(self.program.parts):
            if index >= 2:
                yield self.computed[index - 2]
            yield from self._move(part.load_bytes)
            self.ready[index].succeed(self.env.now)

    def _drain(self, index: int, part: Part) -> Process:
        yield self.computed[index]
        yield from self._move(part.store_bytes)
        self.stored[index].succeed(self.env.now)


class ProjectionUnit:
    """The RPU: fills the p memory in pixel order, as far as there is room."""

    def __init__(
        self,
        env: simpy.Environment,
        program: Program,
        contract: Contract,
        store: Store,
        counts: Counter,
    ):
        self.env, self.program, self.contract, self.store = env, program, contract, store
        self.counts = counts
        self.projected = 0  # input vectors multiplied by P
        machine = program.machine
        room = p_room(program.layer, machine)
        self.space = simpy.Container(env, capacity=room, init=room)
        tap = program.layer.projection == "tap" and program.layer.taps > 1
        self.step = machine.columns if tap else machine.rpu.hold
        self.ready = [
            [env.event() for _ in range(ceil_div(self._pixels(part), self.step))]
            for part in program.parts
        ]
        env.process(self._run(self._gather if tap else self._project))

    def _pixels(self, part: Part) -> int:
        return part.rows * self.program.layer.w_out

    def event(self, part: int, last_pixel: int) -> simpy.Event:
        """Fires, with the time as value, when p of the part up to pixel `last_pixel` is there."""
        offset = last_pixel - self.program.parts[part].row * self.program.layer.w_out
        return self.ready[part][offset // self.step]

    def _run(self, work) -> Process:
        yield self.env.timeout(self.contract.descriptor)
        for index, part in enumerate(self.program.parts):
            yield self.store.ready[index]
            if not part.projects:
                for event in self.ready[index]:
                    event.succeed(self.env.now)
                continue
            yield self.env.timeout(self.program.machine.rpu.load_cycles)
            yield from work(index, part)

    def _tiles(self, rows: int, elements: int) -> int:
        rpu = self.program.machine.rpu
        return ceil_div(rows, rpu.rows) * ceil_div(elements, rpu.elements)

    def _cycles(self, tiles: int, pixels: int) -> int:
        """A group of pixels passes every tile of P; the next tile loads behind it. A P of a single
        tile stays."""
        return tiles * max(pixels, self.program.machine.rpu.load_cycles) if tiles > 1 else pixels

    def _count(self, tiles: int, pixels: int) -> None:
        machine, counts = self.program.machine, self.counts
        if tiles > 1:
            words = ceil_div(
                2 * machine.rpu.rows * machine.rpu.elements, machine.word_bits("projection")
            )
            counts["projection.read"] += tiles * words
        counts["xq.read"] += (
            tiles * pixels * ceil_div(4 * machine.rpu.elements, machine.word_bits("xq"))
        )

    def _project(self, index: int, part: Part) -> Process:
        layer = self.program.layer
        pixels = self._pixels(part)
        tiles = self._tiles(layer.k, layer.d)
        for group, first in enumerate(range(0, pixels, self.step)):
            count = min(self.step, pixels - first)
            yield self.space.get(count)
            yield self.env.timeout(self._cycles(tiles, count))
            self._count(tiles, count)
            self._announce(index, group, count)
        self.projected += pixels

    def _gather(self, index: int, part: Part) -> Process:
        """`tap`: project each input pixel once, then copy K*K of them to every output pixel, one
        copy a column and cycle."""
        layer, hold = self.program.layer, self.program.machine.rpu.hold
        tiles = self._tiles(layer.k // layer.taps, layer.c_in)
        top = max(0, part.row * layer.stride - layer.padding)
        bottom = min(
            layer.h_in, (part.row + part.rows - 1) * layer.stride - layer.padding + layer.kernel
        )
        inputs = (bottom - top) * layer.w_in
        # projected[g]: when group g of input pixels is done.
        sizes = [min(hold, inputs - first) for first in range(0, inputs, hold)]
        projected = self.env.now + np.cumsum([self._cycles(tiles, size) for size in sizes])
        for size in sizes:
            self._count(tiles, size)
        self.projected += inputs
        pixels = self._pixels(part)
        for group, first in enumerate(range(0, pixels, self.step)):
            count = min(self.step, pixels - first)
            row, column = divmod(first + count - 1, layer.w_out)
            row = min(
                bottom - 1, (part.row + row) * layer.stride - layer.padding + layer.kernel - 1
            )
            column = (
                layer.w_in - 1
                if count > 1
                else min(layer.w_in - 1, column * layer.stride - layer.padding + layer.kernel - 1)
            )
            yield self.space.get(count)
            wait = int(projected[((row - top) * layer.w_in + column) // hold]) - self.env.now
            yield self.env.timeout(max(0, wait) + layer.taps)
            self.counts["p.read"] += count * self.program.approximate_beats
            self._announce(index, group, count)

    def _announce(self, part: int, group: int, pixels: int) -> None:
        self.counts["p.write"] += pixels * self.program.approximate_beats
        event = self.ready[part][group]
        usable = self.env.timeout(self.contract.rpu_fill)
        usable.callbacks.append(lambda _: event.succeed(self.env.now))
