"""The event simulation of one layer: DMA, projection unit and vector unit as SimPy processes.

Time is counted in clock cycles from the start of the layer. The processes meet where state is
shared: data of a part on chip, p memory space, p ready. Between those points the vector unit passes
whole runs of beats by the recurrences of `stream`, which give the same cycles as beat-by-beat
stepping. Nothing here knows an energy; events are counted under the names of `counts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from ..common.contract import Contract
from ..common.layer import Layer, ceil_div
from ..common.program import Part, Program, Tile, p_room
from ..common.scheme import GROUP
from .stream import Clock, WeightStream
from .work import batches, dispatch

__all__ = ["LayerRun", "simulate_layer"]

Process = Generator[simpy.Event, int, None]


@dataclass(frozen=True)
class LayerRun:
    """Result of one layer and image: cycles, their causes, slots, MACs and event counts.

    cycles = busy + all stalls; V * T * busy = the sum of slots. `projected` counts the vectors
    multiplied by P: im2col rows (`patch`) or input pixels (`tap`).
    """

    cycles: int
    busy: int
    busy_approximate: int
    stalls: dict[str, int]
    slots: dict[str, int]
    essential: int
    projected: int
    cycles_load: int
    cycles_store: int
    counts: dict[str, int]


def simulate_layer(
    program: Program, mask: NDArray[np.bool_] | None, contract: Contract
) -> LayerRun:
    """Run a compiled layer on one image.

    `mask` is (P, C_out) in placement order, True where essential; None where the program alone
    decides the work (dense, structured).
    """
    return _LayerSimulation(program, mask, contract).run()


class _Store:
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


class _ProjectionUnit:
    """The RPU: fills the p memory in pixel order, as far as there is room."""

    def __init__(
        self,
        env: simpy.Environment,
        program: Program,
        contract: Contract,
        store: _Store,
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
        self.env.process(self._later(event))

    def _later(self, event: simpy.Event) -> Process:
        yield self.env.timeout(self.contract.rpu_fill)
        event.succeed(self.env.now)


class _LayerSimulation:
    """The vector unit walking the program's steps."""

    def __init__(self, program: Program, mask: NDArray[np.bool_] | None, contract: Contract):
        self.program, self.mask, self.contract = program, mask, contract
        self.machine, self.layer, self.scheme = program.machine, program.layer, program.scheme
        self.clock = Clock()
        self.stream = WeightStream(self.clock)
        self.counts: Counter = Counter()
        self.slots: Counter = Counter()
        self.busy_approximate = 0
        self.essential = 0
        self.selected: dict[int, int] = {}  # tile to the time its selection is ready
        self.scanned = 0  # se of the last window
        self.fifo_free = 0  # when the output FIFOs are empty again (U)
        self.env = simpy.Environment()
        self.store = _Store(self.env, program)
        self.projection = (
            None
            if self.scheme.dense
            else _ProjectionUnit(self.env, program, contract, self.store, self.counts)
        )

    def run(self) -> LayerRun:
        self.env.run(self.env.process(self._vector_unit()))
        self._charge_load()
        load = sum(part.load_bytes for part in self.program.parts)
        store = sum(part.store_bytes for part in self.program.parts)
        width = self.machine.dma.bytes_per_cycle
        return LayerRun(
            cycles=self.clock.now,
            busy=self.clock.busy,
            busy_approximate=self.busy_approximate,
            stalls=self.clock.stalls,
            slots=dict(self.slots),
            essential=self.essential,
            projected=self.projection.projected if self.projection else 0,
            cycles_load=ceil_div(load, width),
            cycles_store=ceil_div(store, width),
            counts=dict(self.counts),
        )

    def _vector_unit(self) -> Process:
        begin = self.contract.descriptor + self.contract.feed
        self.stream.hold_until(begin)
        self.clock.wait({"fill": 0})
        here = -1
        unstructured = self.machine.unstructured
        steps = {
            ("A", True): self._approximate_rows,
            ("A", False): self._approximate_groups,
            ("E", True): self._exact_windows,
            ("E", False): self._exact_groups,
        }
        last_step_of_part = {
            self.program.tiles[tile].part: n for n, (_, tile) in enumerate(self.program.steps)
        }
        for number, (phase, index) in enumerate(self.program.steps):
            tile = self.program.tiles[index]
            gates = {"fill": begin}
            if tile.part > here:
                here = tile.part
                ready = yield self.store.ready[here]
                if ready:
                    gates["dma"] = ready + self.contract.feed
                    self.stream.hold_until(ready + self.contract.feed)
            before = self.clock.busy
            yield from steps[phase, unstructured](index, tile, gates)
            if phase == "A":
                self.busy_approximate += self.clock.busy - before
            yield self.env.timeout(max(0, self.clock.now - self.env.now))
            if phase == "A" and tile.last_of_block and self.program.parts[tile.part].releases:
                yield self.projection.space.put(tile.pixels)
            if number == last_step_of_part[tile.part]:
                self.store.computed[tile.part].succeed()
        self.clock.wait({"drain": max(self.clock.now, self.fifo_free) + self.contract.drain})
        stored = 0
        for event in self.store.stored:
            stored = yield event
        self.clock.wait({"dma": stored})

    # Structured machine -------------------------------------------------------------------------

    def _approximate_groups(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, counts = self.machine, self.counts
        columns, beats = machine.columns, self.program.approximate_beats
        total = ceil_div(tile.pixels, columns)
        blocks = ceil_div(total, self.program.batches_of_approximate_block)
        base, more = divmod(total, blocks)
        load = ceil_div(GROUP, machine.weight_words)
        first = 0
        for block in range(blocks):
            depth = base + (block < more)
            pixels = min(depth * columns, tile.pixels - first)
            ready = yield self.projection.event(tile.part, tile.pixel + first + pixels - 1)
            # Units of two row-beats: p of a batch is read over two cycles and serves both.
            units = GROUP // 2 * beats
            busy = 2 * depth
            self.stream.run(
                units,
                load,
                busy,
                max(0, self.contract.accumulate - busy),
                {**gates, "rpu": ready + self.contract.feed},
                "shallow",
            )
            gates = {}
            useful = pixels * tile.channels * beats
            slots = machine.vpus * units * busy
            idle_pixels = (depth * columns - pixels) * machine.lanes * GROUP * beats
            self._slots(slots, useful, idle_pixels, slots - useful - idle_pixels)
            # Both halves hold two row-beats of four words; a lane without a group loads nothing.
            rows = _lanes_with_channels(tile, machine.lanes) * GROUP * beats
            counts["weights.read"] += 4 * rows
            counts["group_buffer.write"] += 4 * rows
            counts["group_buffer.read"] += 4 * useful
            counts["p.read"] += units * pixels
            counts["mvu.mac4"] += 16 * machine.pses * useful
            counts["accumulator.update"] += useful
            first += pixels
        self.selected[index] = self.clock.now + self.contract.to_indices
        outputs = tile.pixels * tile.channels
        groups = tile.pixels * ceil_div(tile.channels, GROUP)
        lines = tile.pixels
        counts["parameters.read"] += tile.channels
        counts["collector.write"] += outputs
        counts["select.rank"] += groups
        counts["masks.write"] += ceil_div(groups * self._index_bits(), machine.word_bits("masks"))
        self._write_back(outputs, lines)

    def _index_bits(self) -> int:
        """Bits that name the essential channels of a group: 3 each, or a bit mask if irregular."""
        return 3 * self.scheme.essential_of_group if self.scheme.structured else GROUP

    def _exact_groups(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, counts, layer = self.machine, self.counts, self.layer
        columns = machine.columns
        part = self.program.parts[tile.part]
        geometry = batches(
            layer, part.row * layer.w_out, part.rows * layer.w_out, columns, machine.pses
        )
        first = (tile.pixel - part.row * layer.w_out) // columns
        chosen = slice(first, first + ceil_div(tile.pixels, columns))
        depth, essential, idle_channels, lines = self._batch_depths(tile)
        self.essential += essential
        if not self.scheme.dense:
            gates = {**gates, "select": self.selected.pop(index)}
        if not depth.any():
            return
        active = depth > 0
        conflicts, words = geometry.conflicts[chosen][active], geometry.words[chosen][active]
        busy = int(depth.sum())
        late = np.maximum(conflicts - depth[active][:, None], 0).sum(0)
        load = ceil_div(GROUP, machine.weight_words)
        for idle in late.tolist():
            idle = max(idle, self.contract.accumulate - busy)
            self.stream.run(geometry.beats, load, busy, idle, gates)
            gates = {}
        beats = self.program.beats
        useful = essential * beats
        slots = machine.vpus * busy * beats
        pixels = np.minimum(columns, tile.pixels - np.arange(len(depth)) * columns)
        idle_pixels = int(((columns - pixels) * depth).sum()) * machine.lanes * beats
        self._slots(slots, useful, idle_pixels, idle_channels * beats)
        counts["weights.read"] += tile.channels * beats
        counts["group_buffer.write"] += tile.channels * beats
        counts["group_buffer.read"] += useful
        x_words = int(words.sum()) * geometry.beats
        counts["x.read"] += x_words
        counts["crossbar.word"] += x_words
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += tile.channels
        if not self.scheme.dense:
            groups = tile.pixels * ceil_div(tile.channels, GROUP)
            counts["masks.read"] += beats * ceil_div(
                groups * self._index_bits(), machine.word_bits("masks")
            )
        self._write_back(essential, lines)
        return
        yield  # a generator, like the other steps

    def _batch_depths(self, tile: Tile) -> tuple[NDArray[np.int64], int, int, int]:
        """Issue cycles a beat of each batch; essential neurons, slots without a channel, and write
        accesses (a pixel's lanes write one line together) of the tile.

        All VPUs advance together: a batch takes as long as its fullest group.
        """
        machine = self.machine
        columns, lanes = machine.columns, machine.lanes
        count = ceil_div(tile.pixels, columns)
        widths = np.clip(tile.channels - GROUP * np.arange(lanes), 0, GROUP)
        if self.mask is None:
            keep = GROUP if self.scheme.dense else self.scheme.essential_of_group
            kept = np.minimum(widths, keep)
            depth = np.full(count, kept.max())
            idle = int((depth[0] - kept).sum()) * tile.pixels
            return depth, int(kept.sum()) * tile.pixels, idle, int(depth[0]) * tile.pixels
        mask = np.zeros((count * columns, lanes * GROUP), dtype=bool)
        mask[: tile.pixels, : tile.channels] = self.mask[
            tile.pixel : tile.pixel + tile.pixels, tile.channel : tile.channel + tile.channels
        ]
        grouped = mask.reshape(count, columns, lanes, GROUP).sum(-1, dtype=np.int64)
        depth = grouped.max((1, 2))
        pixels = np.minimum(columns, tile.pixels - np.arange(count) * columns)
        missing = np.maximum(depth[:, None] - widths, 0).sum(1)
        lines = int(grouped.max(2).sum())
        return depth, int(grouped.sum()), int((missing * pixels).sum()), lines

    # Unstructured machine -----------------------------------------------------------------------

    def _approximate_rows(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, counts = self.machine, self.counts
        beats = self.program.approximate_beats
        ready = yield self.projection.event(tile.part, tile.pixel + tile.pixels - 1)
        rows = ceil_div(tile.channels, machine.lanes)
        # EXACT owns the weight port until its last issue; approximate outputs need the whole width
        # of the sub-banks, so the FIFOs must have drained.
        self.stream.run(
            rows * beats,
            ceil_div(4, machine.weight_words),
            tile.pixels,
            max(0, self.contract.accumulate - tile.pixels),
            {**gates, "rpu": ready + self.contract.feed, "writeback": self.fifo_free},
            "shallow",
        )
        useful = tile.pixels * tile.channels * beats
        slots = machine.lanes * rows * beats * tile.pixels
        self._slots(slots, useful, 0, slots - useful)
        self.selected[index] = self.clock.now + self.contract.to_mask
        outputs = tile.pixels * tile.channels
        counts["weights.read"] += 4 * tile.channels * beats
        counts["row_register.write"] += 4 * tile.channels * beats
        counts["p.read"] += rows * beats * tile.pixels
        counts["mvu.mac4"] += 16 * machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += tile.channels
        counts["select.compare"] += outputs
        counts["masks.write"] += ceil_div(outputs, machine.word_bits("masks"))
        self._write_back(outputs, ceil_div(outputs, 4))

    def _exact_windows(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, counts, clock, contract = self.machine, self.counts, self.clock, self.contract
        beats = self.program.beats
        pixels, channels = (
            slice(tile.pixel, tile.pixel + tile.pixels),
            slice(tile.channel, tile.channel + tile.channels),
        )
        if self.mask is None:
            tile_mask = np.ones((tile.pixels, tile.channels), dtype=bool)
        else:
            tile_mask = self.mask[pixels, channels]
        passes = dispatch(tile_mask, machine.lanes, machine.window, machine.accumulators)
        rows = ceil_div(tile.channels, machine.lanes)
        scan = 0 if self.scheme.dense else contract.scan(machine.window, rows)
        if not self.scheme.dense:
            selected = self.selected.pop(index)
            gates = {**gates, "select": selected}
            self.scanned = max(self.scanned, selected)
        clock.wait(gates)
        ended = before = 0  # ce of the window before and of the one before that, in this tile
        at = 0
        bounds = np.searchsorted(passes.window, np.arange(passes.windows + 1)).tolist()
        depths, widths, drains = (
            passes.depth.tolist(),
            passes.pixels.tolist(),
            passes.drain.tolist(),
        )
        for window in range(passes.windows):
            self.scanned = max(self.scanned, before) + scan
            end = max(ended, self.scanned)
            for at in range(bounds[window], bounds[window + 1]):
                clock.wait({"scan": self.scanned})
                depth = depths[at]
                idle = max(widths[at], contract.accumulate) - depth
                # All beats but the last; the last one needs room in the output FIFOs.
                self._beats(beats - 1, depth, idle)
                clock.wait({"writeback": self.fifo_free})
                self.fifo_free = clock.now + drains[at]
                self._beats(1, depth, idle)
                end = clock.now
            before, ended = ended, end
        # The scanner must have seen the last window before the sequencer moves on.
        clock.wait({"scan": ended})
        self.stream.hold_until(clock.now)
        pairs = int(passes.pairs.sum())
        self.essential += pairs
        useful = pairs * beats
        slots = machine.lanes * int(passes.depth.sum()) * beats
        resident = np.arange(machine.lanes) < tile.channels
        absent = int((~resident).sum()) * int(passes.depth.sum()) * beats
        self._slots(slots, useful, 0, absent)
        distinct = int(passes.rows.sum())
        counts["weights.read"] += distinct * beats
        counts["row_register.write"] += distinct * beats
        x_words = int(passes.pixels.sum()) * beats
        counts["x.read"] += x_words
        counts["window.write"] += x_words
        counts["window.read"] += useful
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += distinct
        counts["fifo.word"] += pairs
        if not self.scheme.dense:
            words = (
                passes.windows * machine.window * ceil_div(rows, contract.scan_bits) * machine.lanes
            )
            counts["select.scan"] += words
            counts["masks.read"] += words
        self._write_back(pairs, pairs)
        return
        yield  # a generator, like the other steps

    def _beats(self, count: int, depth: int, idle: int) -> None:
        self.clock.issue(count * depth)
        if idle > 0:
            self.clock.stall("xbank", count * idle)

    # Both ---------------------------------------------------------------------------------------

    def _slots(self, slots: int, useful: int, idle_pixels: int, idle_channels: int) -> None:
        self.slots["useful"] += useful
        self.slots["idle_pixels"] += idle_pixels
        self.slots["idle_channels"] += idle_channels
        self.slots["idle_imbalance"] += slots - useful - idle_pixels - idle_channels

    def _write_back(self, outputs: int, lines: int) -> None:
        """`outputs` values leave through `lines` write accesses, masked or whole."""
        counts, layer = self.counts, self.layer
        counts["post.requantise"] += outputs
        counts["post.merge"] += outputs
        counts["y.write"] += lines
        if layer.residual:
            counts["residual.read"] += lines
        if layer.joined:
            counts["residual.write"] += lines
        if not self.scheme.dense:
            counts["xq.write"] += lines

    def _charge_load(self) -> None:
        """Every weight, P, parameter and input word is written once a layer and image."""
        layer, machine, counts = self.layer, self.machine, self.counts
        words = layer.c_out * self.program.beats
        if not self.scheme.dense:
            words += 4 * layer.c_out * self.program.approximate_beats
            entries = layer.k * (layer.d if layer.projection == "patch" else layer.c_in)
            if layer.projection == "tap":
                entries //= layer.taps
            counts["projection.write"] += ceil_div(2 * entries, machine.word_bits("projection"))
            counts["xq.write"] += ceil_div(
                4 * layer.h_in * layer.w_in * layer.c_in, machine.word_bits("xq")
            )
        counts["weights.write"] += words
        counts["parameters.write"] += layer.c_out
        counts["x.write"] += _input_words(layer, machine.pses)


def _lanes_with_channels(tile: Tile, lanes: int) -> int:
    return min(lanes, ceil_div(tile.channels, GROUP))


def _input_words(layer: Layer, words: int) -> int:
    """x words of the layer's input: im2col rows where it is narrower than a word."""
    if layer.c_in < words:
        return layer.pixels * layer.beats(words)
    return layer.h_in * layer.w_in * ceil_div(layer.c_in, words)
