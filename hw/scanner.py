"""Unstructured machine: passes of essential pairs, made from the masks two ahead of their issue."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from ..common.descriptor import MAX_PIXELS, Flag, memory_depth
from ..common.machine import Machine
from .fields import compute_layout, flag
from .lane_scanner import LaneScanner, pair_bits
from .ports import read_port
from .share import shared

__all__ = ["PairScanner", "pass_layout"]


def pass_layout(machine: Machine) -> StructLayout:
    """A pass: the first pixel of its window, from the part's first; which of the window's pixels
    have a pair; the most pairs of a lane; the parity of its tile."""
    return StructLayout(
        {
            "pixel": MAX_PIXELS.bit_length(),
            "needed": machine.window,
            "most": ceil_log2(machine.accumulators + 1),
            "tile": 1,
        }
    )


class PairScanner(wiring.Component):
    """Scans tile after tile, window after window; all lanes work on one window.

    A pass is published when every lane has R pairs or is through with the window; a window without
    pairs publishes nothing. At most two passes are published whose issue is not over.

    Members
    -------
    config : ``In(compute_layout(machine))``
    start, stop : ``In(1)``
        Scan from the next cycle on; forget everything.
    selects : ``In(1)``
        From the next cycle on one more tile is selected.
    pass_over : ``In(1)``
        The oldest pass issues for the last time in this cycle.
    masks : read ports of the V banks of masks
    passes : ``Out(pass_layout(machine))`` each of two
        Passes by parity.
    published : ``Out(range(3))``
        Passes published and not over.
    publishes : ``Out(1)``
        One more from the next cycle on.
    leaves : ``Out(1)``
        The scanner is through with its tile after this cycle.
    unselected : ``Out(1)``
        It waits for its tile to be selected.
    half : ``In(1)``, slot : ``In``, pairs : ``Out`` each of V, counts : ``Out`` each of V
        Place in the lists; the pairs there, and how many pairs each lane's list has.
    """

    def __init__(self, machine: Machine, *, contract: Contract = CONTRACT):
        self.machine, self.contract = machine, contract
        lanes = machine.lanes
        super().__init__(
            {
                "config": In(compute_layout(machine)),
                "start": In(1),
                "stop": In(1),
                "selects": In(1),
                "pass_over": In(1),
                "masks": Out(read_port(64, memory_depth(machine, "masks"))).array(lanes),
                "passes": Out(pass_layout(machine)).array(2),
                "published": Out(range(3)),
                "publishes": Out(1),
                "leaves": Out(1),
                "unselected": Out(1),
                "half": In(1),
                "slot": In(ceil_log2(machine.accumulators)),
                "pairs": Out(sum(pair_bits(machine))).array(lanes),
                "counts": Out(ceil_log2(machine.accumulators + 1)).array(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        machine, config = self.machine, self.config
        lanes, window = machine.lanes, machine.window
        depth = memory_depth(machine, "masks")
        pixel_bits = MAX_PIXELS.bit_length()
        dense = Signal()
        m.d.comb += dense.eq(~flag(config, Flag.APPROXIMATE))

        # Where the scanner is.
        tiles_over, first, within = Signal(pixel_bits), Signal(pixel_bits), Signal(pixel_bits)
        live, parity = Signal(), Signal()
        base = Signal(ceil_log2(depth))
        pixels, left = Signal(pixel_bits), Signal(pixel_bits)
        m.d.comb += [
            pixels.eq(config.tile_depth + (tiles_over < config.tile_more)),
            left.eq(pixels - within),
        ]
        selected = Signal(2)
        active = Signal()
        m.d.comb += [
            self.unselected.eq(live & ~dense & (selected == 0)),
            active.eq(live & (dense | selected.any()) & (self.published < 2)),
        ]

        # Lanes.
        scanners = [LaneScanner(machine, contract=self.contract) for _ in range(lanes)]
        stops, ends, some = Signal(lanes), Signal(lanes), Signal(lanes)
        filling = Signal()
        following = Signal(ceil_log2(depth) + 1)
        rows_a_word = 64 // window
        words = Signal(16)
        m.d.comb += [
            following.eq(base + config.mask_rows),
            words.eq((config.groups + rows_a_word - 1) >> (rows_a_word.bit_length() - 1)),
        ]
        all_stop, publishes = Signal(), Signal()
        window_over, last_window = Signal(), Signal()
        next_base = Mux(following >= depth, following - depth, following)
        begins = Signal()
        m.d.comb += [
            all_stop.eq(active & stops.all()),
            publishes.eq(all_stop & some.any()),
            window_over.eq(active & ends.all()),
            last_window.eq(left <= window),
            self.publishes.eq(publishes),
            self.leaves.eq(window_over & last_window),
            begins.eq(self.start | self.leaves),
        ]
        counts = [
            [Signal.like(self.counts[0], name=f"count_{h}_{v}") for v in range(lanes)]
            for h in range(2)
        ]
        for v, lane in enumerate(scanners):
            m.submodules[f"lane_{v}"] = shared(lane, platform)
            m.d.comb += [
                lane.clear.eq(self.start | self.stop),
                lane.begin.eq(begins),
                lane.first.eq(Mux(self.start, config.mask_base, next_base)),
                lane.again.eq(self.unselected),
                lane.scan.eq(active),
                lane.new_pass.eq(publishes),
                lane.new_window.eq(window_over),
                lane.dense.eq(dense),
                lane.rows.eq((config.channels + (lanes - 1 - v)) >> (lanes.bit_length() - 1)),
                lane.words.eq(words),
                lane.pixels.eq(Mux(left > window, window, left)),
                self.masks[v].en.eq(lane.en),
                self.masks[v].address.eq(lane.address),
                lane.data.eq(self.masks[v].data),
                stops[v].eq(lane.stops),
                ends[v].eq(lane.ended),
                some[v].eq(lane.count.any()),
                lane.half.eq(self.half),
                lane.slot.eq(self.slot),
                self.pairs[v].eq(lane.pair),
                self.counts[v].eq(Array([counts[0][v], counts[1][v]])[self.half]),
            ]

        # The pass under way, and its publication.
        needed, now = Signal(window), Signal(window)
        touched = [
            Cat(lane.takes & (lane.pixel == pixel) for lane in scanners).any()
            for pixel in range(window)
        ]
        m.d.comb += now.eq(needed | Cat(touched))
        most = scanners[0].count
        for lane in scanners[1:]:
            greater = Signal.like(most)
            m.d.comb += greater.eq(Mux(lane.count > most, lane.count, most))
            most = greater
        m.d.sync += needed.eq(Mux(publishes, 0, now))
        with m.If(publishes):
            m.d.sync += filling.eq(~filling)
            for h in range(2):
                with m.If(filling == h):
                    m.d.sync += [
                        self.passes[h].pixel.eq(first + within),
                        self.passes[h].needed.eq(now),
                        self.passes[h].most.eq(most),
                        self.passes[h].tile.eq(parity),
                    ]
                    m.d.sync += [counts[h][v].eq(lane.count) for v, lane in enumerate(scanners)]
        m.d.sync += [
            self.published.eq(self.published + publishes - self.pass_over),
            selected.eq(selected + self.selects - (self.leaves & ~dense)),
        ]
        with m.If(window_over):
            m.d.sync += within.eq(within + window)
            with m.If(last_window):
                m.d.sync += [
                    within.eq(0),
                    first.eq(first + pixels),
                    tiles_over.eq(tiles_over + 1),
                    parity.eq(~parity),
                    base.eq(next_base),
                    live.eq(tiles_over + 1 != config.tiles),
                ]
        with m.If(self.start | self.stop):
            m.d.sync += [
                live.eq(self.start & flag(config, Flag.EXACT)),
                tiles_over.eq(0),
                first.eq(0),
                within.eq(0),
                parity.eq(0),
                filling.eq(0),
                needed.eq(0),
                base.eq(config.mask_base),
                selected.eq(0),
                self.published.eq(0),
            ]
        return m
