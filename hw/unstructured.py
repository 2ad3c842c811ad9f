"""The unstructured machine's compute engine: a channel a lane, any neuron may be essential."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from ..common.descriptor import MAX_PIXELS, Flag, memory_depth
from ..common.machine import Machine
from .engine import engine_members
from .fields import flag
from .lane_scanner import pair_bits
from .pipeline import carried, wrapped
from .post import PARAMETERS, Post
from .pse import Precision
from .row_loader import WORDS, RowLoader
from .scanner import PairScanner
from .share import shared
from .steps import Steps
from .threshold import ThresholdMask
from .vpu import VPU
from .window import Window

__all__ = ["UnstructuredEngine"]


class UnstructuredEngine(wiring.Component):
    """V lanes of one VPU each, all on the pixels of one window.

    APPROXIMATE runs row by row: a row-beat of weights for all pixels of a tile. EXACT runs pass by
    pass: every lane has its own list of (row, pixel), repeated for each beat.

    Members as :func:`sinai.hw.engine.engine_members` describes them.
    """

    def __init__(self, machine: Machine, *, contract: Contract = CONTRACT):
        self.machine, self.contract = machine, contract
        super().__init__(engine_members(machine))

    def elaborate(self, platform):
        m = Module()
        machine, contract, config = self.machine, self.contract, self.config
        lanes, word = machine.lanes, 16 * machine.pses
        row_bits, pixel_bits = pair_bits(machine)
        number = MAX_PIXELS.bit_length()
        p_bits = 24

        m.submodules.steps = steps = Steps(machine)
        m.submodules.loader = loader = RowLoader(machine)
        m.submodules.scanner = scanner = PairScanner(machine, contract=contract)
        m.submodules.window = window = Window(machine)
        approximate = flag(config, Flag.APPROXIMATE)

        # --- Launch.
        launch = contract.launch(machine.columns)
        clock = Signal(range(launch + 2))
        begun = Signal()
        m.d.comb += [
            begun.eq(clock == launch),
            self.go.eq(self.running & (clock == launch - 1)),
        ]
        with m.If(self.running & ~begun):
            m.d.sync += clock.eq(clock + 1)
        for part in (steps, loader, scanner, window):
            m.d.comb += part.config.eq(config)
        m.d.comb += [steps.start.eq(self.start), steps.stop.eq(self.stop)]
        for part in (loader, scanner, window):
            m.d.comb += [part.start.eq(self.go), part.stop.eq(self.stop | self.start)]

        # --- APPROXIMATE: rows of channels, beats, pixels of the tile.
        rough = Signal()
        row, beat, pixel = Signal(row_bits), Signal(16), Signal(number)
        p_tile, p_at, p_next, p_room = (
            Signal(p_bits, name=n) for n in ("p_tile", "p_at", "p_next", "p_room")
        )
        gate, rough_issue, last_pixel = Signal(), Signal(), Signal()
        last_beat, last_row, rough_over = Signal(), Signal(), Signal()
        m.d.comb += [
            rough.eq(steps.valid & ~steps.exact),
            gate.eq(self.ready >= steps.first + steps.depth),
            rough_issue.eq(rough & begun & gate & ((pixel != 0) | loader.ready)),
            last_pixel.eq(pixel + 1 == steps.depth),
            last_beat.eq(beat + 1 == config.rough_beats),
            last_row.eq(row + 1 == config.groups),
            rough_over.eq(rough_issue & last_pixel & last_beat & last_row),
            loader.begun.eq(rough_issue & (pixel == 0)),
            loader.ended.eq(rough_issue & last_pixel),
            self.freed.eq(Mux(rough_over & flag(config, Flag.RELEASE), steps.depth, 0)),
            p_room.eq(config.p_room * config.rough_beats),
            p_next.eq(Mux(p_at + config.rough_beats == p_room, 0, p_at + config.rough_beats)),
        ]
        with m.If(rough_issue):
            m.d.sync += [pixel.eq(pixel + 1), p_at.eq(p_next)]
            with m.If(last_pixel):
                m.d.sync += [pixel.eq(0), p_at.eq(p_tile), beat.eq(beat + 1)]
                with m.If(last_beat):
                    m.d.sync += [beat.eq(0), row.eq(row + 1)]
                    with m.If(last_row):
                        m.d.sync += [row.eq(0), p_tile.eq(p_next), p_at.eq(p_next)]
        with m.If(self.running & ~begun):
            base = self.base_slot * config.rough_beats
            m.d.sync += [p_tile.eq(base), p_at.eq(base)]

        # Selection is over a fixed time after the last issue of an approximate step.
        token = rough_over & flag(config, Flag.EXACT)
        for stage in range(contract.to_mask - 2):
            later = Signal(name=f"selecting_{stage}")
            m.d.sync += later.eq(token & ~self.stop & ~self.start)
            token = later
        selects = Signal()
        m.d.sync += selects.eq(token & ~self.stop & ~self.start)
        m.d.comb += scanner.selects.eq(selects)

        # --- EXACT: passes, beats, slots of the lists.
        exact = Signal()
        parity, half, slot = Signal(), Signal(), Signal(ceil_log2(machine.accumulators))
        exact_beat, beat_rows = Signal(16), Signal(ceil_log2(memory_depth(machine, "weights")))
        tile, left_behind = Signal(), Signal(2)
        current = Array(list(scanner.passes))[parity]
        pass_here, exact_issue, last_slot = Signal(), Signal(), Signal()
        first_exact, last_exact, pass_over, exact_over = Signal(), Signal(), Signal(), Signal()
        others = Signal()  # a pass of this tile behind the current one
        behind = Array(list(scanner.passes))[~parity]
        m.d.comb += [
            exact.eq(steps.valid & steps.exact),
            pass_here.eq(scanner.published.any() & (current.tile == tile)),
            exact_issue.eq(exact & begun & pass_here & ((slot != 0) | window.ready)),
            last_slot.eq(slot + 1 == current.most),
            first_exact.eq(exact_beat == 0),
            last_exact.eq(exact_beat + 1 == config.beats),
            pass_over.eq(exact_issue & last_slot & last_exact),
            others.eq((scanner.published == 2) & (behind.tile == tile)),
            exact_over.eq(
                exact
                & begun
                & (left_behind.any() | scanner.leaves)
                & ~(scanner.publishes & (left_behind == 0))
                & Mux(pass_here, pass_over & ~others, 1)
            ),
            scanner.pass_over.eq(pass_over),
            window.publishes.eq(scanner.publishes),
            window.begun.eq(exact_issue & (slot == 0)),
            window.ended.eq(exact_issue & last_slot),
            loader.exact_over.eq(exact_over),
            scanner.half.eq(parity),
            scanner.slot.eq(slot),
        ]
        for n in range(2):
            m.d.comb += window.passes[n].eq(scanner.passes[n])
        m.d.sync += left_behind.eq(left_behind + scanner.leaves - exact_over)
        exact_first = Signal(number)  # first pixel of the tile of the exact step
        m.d.comb += window.tile_pixel.eq(exact_first)
        with m.If(exact_over):
            m.d.sync += [tile.eq(~tile), exact_first.eq(exact_first + steps.depth)]
        with m.If(exact_issue):
            m.d.sync += slot.eq(slot + 1)
            with m.If(last_slot):
                m.d.sync += [
                    slot.eq(0),
                    half.eq(~half),
                    exact_beat.eq(exact_beat + 1),
                    beat_rows.eq(beat_rows + config.groups),
                ]
                with m.If(last_exact):
                    m.d.sync += [exact_beat.eq(0), beat_rows.eq(0), parity.eq(~parity)]

        m.d.comb += [
            steps.advance.eq(rough_over | exact_over),
            self.issue.eq(rough_issue | exact_issue),
            self.step_exact.eq(exact),
        ]

        # --- What an issue carries. An exact one has a row and a pixel of its own in every lane.
        layout = StructLayout(
            {
                "exact": 1,
                "first": 1,
                "last": 1,
                "slot": len(slot),
                "half": 1,
                "pixel": number,  # of the window, or of the approximate output
                "row": row_bits,
                "within": number,  # of the tile
                "ends": 1,  # last pixel of a window of masks
                "masks": ceil_log2(memory_depth(machine, "masks")),
            }
        )
        lane = StructLayout({"valid": 1, "row": row_bits, "pixel": max(1, pixel_bits)})
        decision = Signal(layout)
        own = [Signal(lane, name=f"own_{v}") for v in range(lanes)]
        mask_tile = Signal(ceil_log2(memory_depth(machine, "masks")))
        mask_depth = memory_depth(machine, "masks")
        rows_a_word = 64 // machine.window
        words = Signal(16)
        inside_window = pixel[:pixel_bits] if pixel_bits else Const(0, 1)
        m.d.comb += [
            words.eq((config.groups + rows_a_word - 1) >> (rows_a_word.bit_length() - 1)),
            decision.exact.eq(exact),
            decision.first.eq(Mux(exact, first_exact, beat == 0)),
            decision.last.eq(Mux(exact, last_exact, last_beat)),
            decision.slot.eq(Mux(exact, slot, pixel)),
            decision.half.eq(half),
            decision.pixel.eq(Mux(exact, current.pixel, steps.first + pixel)),
            decision.row.eq(row),
            decision.within.eq(pixel),
            decision.ends.eq(last_pixel | (inside_window == machine.window - 1)),
            decision.masks.eq(mask_tile),
        ]
        with m.If(rough_over):
            m.d.sync += mask_tile.eq(wrapped(mask_tile + config.mask_rows, mask_depth))
        for v in range(lanes):
            pair = scanner.pairs[v]
            m.d.comb += [
                own[v].valid.eq(
                    Mux(
                        exact,
                        exact_issue & (slot < scanner.counts[v]),
                        rough_issue & ((row << (lanes.bit_length() - 1)) + v < config.channels),
                    )
                ),
                own[v].row.eq(Mux(exact, pair[pixel_bits:], row)),
                own[v].pixel.eq(Mux(exact, pair[:pixel_bits] if pixel_bits else 0, 0)),
            ]

        # --- Cycle 0: the memories are read. A lane reads a weight word once for all its pixels.
        for v in range(lanes):
            seen = Signal(row_bits, name=f"seen_{v}")
            reads = Signal(name=f"reads_{v}")
            m.d.comb += [
                reads.eq(own[v].valid & exact & ((slot == 0) | (own[v].row != seen))),
                self.weights[v].en.eq(loader.en | reads),
                self.weights[v].address.eq(
                    Mux(
                        loader.en,
                        loader.address,
                        config.weights_base + beat_rows + own[v].row,
                    )
                ),
            ]
            with m.If(own[v].valid & exact):
                m.d.sync += seen.eq(own[v].row)
        m.d.comb += [
            self.p[0].en.eq(rough_issue),
            self.p[0].address.eq(p_at + beat),
            self.x[0].en.eq(window.x.en),
            self.x[0].address.eq(window.x.address),
            window.x.data.eq(self.x[0].data),
        ]
        for v in range(lanes):
            m.d.comb += [
                self.masks[v].en.eq(scanner.masks[v].en),
                self.masks[v].address.eq(scanner.masks[v].address),
                scanner.masks[v].data.eq(self.masks[v].data),
            ]

        # --- Cycle 1: words become operands.
        own_now = Cat(own)
        issue_1, decision_1, own_1 = carried(m, 1, "fed", self.issue, decision, own_now)
        decision_1 = layout(decision_1)
        own_1 = [lane(own_1.word_select(v, lane.size)) for v in range(lanes)]
        p_operand = Signal(4 * word, reset_less=True)
        with m.If(issue_1 & ~decision_1.exact):
            m.d.sync += p_operand.eq(self.p[0].data)
        m.d.comb += window.half.eq(decision_1.half)
        rough_half = (
            Signal()
        )  # of the row registers: the halves alternate from row-beat to row-beat
        with m.If(loader.ended):
            m.d.sync += rough_half.eq(~rough_half)
        half_1 = Signal()
        m.d.sync += half_1.eq(rough_half)
        weights, operands = [], []
        for v in range(lanes):
            m.d.comb += window.pixel[v].eq(own_1[v].pixel)
            halves = [
                [Signal(word, name=f"row_{v}_{h}_{q}", reset_less=True) for q in range(WORDS)]
                for h in range(2)
            ]
            for h in range(2):
                for q in range(WORDS):
                    with m.If(loader.fill & (loader.fill_half == h) & (loader.fill_word == q)):
                        m.d.sync += halves[h][q].eq(self.weights[v].data)
            low = Signal(word, name=f"low_{v}", reset_less=True)
            high = Signal(3 * word, name=f"high_{v}", reset_less=True)
            x = Signal(word, name=f"x_{v}", reset_less=True)
            with m.If(issue_1 & decision_1.exact):
                m.d.sync += [low.eq(self.weights[v].data), x.eq(window.words[v])]
            with m.If(issue_1 & ~decision_1.exact):
                m.d.sync += [
                    low.eq(Mux(half_1, halves[1][0], halves[0][0])),
                    high.eq(Mux(half_1, Cat(halves[1][1:]), Cat(halves[0][1:]))),
                ]
            weights.append(Cat(low, high))
            operands.append(x)

        # --- Cycle 2: the VPUs take them; beside them runs what their results need.
        issue_2, decision_2, own_2 = carried(
            m, contract.operand, "taken", issue_1, decision_1, Cat(own_1)
        )
        decision_2 = layout(decision_2)
        ending = issue_2 & decision_2.last
        scaled_valid, _, scaled = carried(m, contract.vpu - 1, "scaled", ending, decision_2, own_2)
        summed_valid, summed, summed_own = carried(
            m, contract.vpu, "summed", ending, decision_2, own_2
        )
        summed = layout(summed)
        z_valid, z_decision = carried(
            m, contract.requantise, "compared", summed_valid & ~summed.exact, summed
        )
        z_decision = layout(z_decision)
        z_inside = z_decision.within[:pixel_bits] if pixel_bits else Const(0, 1)
        window_ends = z_valid & z_decision.ends
        mask_valid, mask_decision = carried(m, contract.compare, "masked", window_ends, z_decision)
        mask_decision = layout(mask_decision)
        window_number = mask_decision.within >> pixel_bits
        mask_row = Signal(number + 12)
        chunk = mask_decision.row[: ceil_log2(rows_a_word)] if rows_a_word > 1 else Const(0, 1)
        m.d.comb += mask_row.eq(
            mask_decision.masks
            + window_number * words
            + (mask_decision.row >> (rows_a_word.bit_length() - 1))
        )
        for v in range(lanes):
            me_2 = lane(own_2.word_select(v, lane.size))
            me_scaled = lane(scaled.word_select(v, lane.size))
            me = lane(summed_own.word_select(v, lane.size))
            vpu = VPU(machine.pses, machine.accumulators, contract=contract)
            m.submodules[f"vpu_{v}"] = shared(vpu, platform)
            m.d.comb += [
                vpu.valid.eq(issue_2 & me_2.valid),
                vpu.mode.eq(Mux(decision_2.exact, Precision.INT16, Precision.INT4)),
                vpu.first.eq(decision_2.first),
                vpu.last.eq(decision_2.last),
                vpu.address.eq(decision_2.slot),
                vpu.x.eq(Mux(decision_2.exact, operands[v], p_operand)),
                vpu.weights.eq(weights[v]),
                self.parameters[v].en.eq(scaled_valid & me_scaled.valid),
                self.parameters[v].address.eq(config.parameters_base + me_scaled.row),
            ]
            post = Post(len(self.y[0].address), contract=contract)
            m.submodules[f"post_{v}"] = shared(post, platform)
            m.d.comb += [
                post.valid.eq(vpu.o_valid),
                post.total.eq(vpu.o_sum),
                post.rough.eq(~summed.exact),
                post.parameters.eq(PARAMETERS(self.parameters[v].data)),
                post.address.eq(((summed.pixel + me.pixel) << config.row_bits) | me.row),
                post.shift.eq(config.shift),
                post.rough_shift.eq(config.rough_shift),
                post.gain_shift.eq(config.gain_shift),
                post.relu.eq(flag(config, Flag.RELU)),
                post.add_residual.eq(flag(config, Flag.RESIDUAL)),
                post.keep_sum.eq(flag(config, Flag.STORE_SUM)),
                self.residual[v].en.eq(post.residual_en),
                self.residual[v].address.eq(config.residual_base + post.residual_address),
                post.residual_data.eq(self.residual[v].data),
                self.y[v].en.eq(post.y_en),
                self.y[v].address.eq(config.y_base + post.y_address),
                self.y[v].data.eq(post.y),
                self.sums[v].en.eq(post.sum_en),
                self.sums[v].address.eq(config.sum_base + post.y_address),
                self.sums[v].data.eq(post.sum),
            ]
            compare = ThresholdMask(machine.window, contract=contract)
            m.submodules[f"compare_{v}"] = shared(compare, platform)
            m.d.comb += [
                compare.valid.eq(z_valid),
                compare.z.eq(post.z),
                compare.exists.eq(
                    (z_decision.row << (lanes.bit_length() - 1)) + v < config.channels
                ),
                compare.theta.eq(config.theta),
                compare.position.eq(z_inside),
                compare.last.eq(z_decision.ends),
                self.select[v].en.eq(Mux(mask_valid & ~flag(config, Flag.INJECT), 1 << chunk, 0)),
                self.select[v].address.eq(wrapped(mask_row, mask_depth)),
                self.select[v].data.eq(compare.o_bits.replicate(rows_a_word)),
            ]

        # --- Steps as the outside sees them, the end, and why a cycle passes without issue.
        step_open = Signal()
        m.d.comb += [
            self.step_begin.eq(self.issue & ~step_open),
            self.step_end.eq(steps.advance & (step_open | self.issue)),
        ]
        with m.If(steps.advance):
            m.d.sync += step_open.eq(0)
        with m.Elif(self.issue):
            m.d.sync += step_open.eq(1)
        tail = Signal(range(contract.drain + 1))
        finished = Signal()
        with m.If(steps.advance & steps.last):
            m.d.sync += tail.eq(contract.drain - 1)
        with m.Elif(tail != 0):
            m.d.sync += tail.eq(tail - 1)
        m.d.comb += finished.eq(tail == 1)
        m.d.sync += self.done.eq(finished & ~self.stop)
        with m.If(self.start):
            m.d.sync += self.running.eq(1)
        with m.If(finished | self.stop):
            m.d.sync += self.running.eq(0)
        issued = Signal()
        with m.If(self.issue):
            m.d.sync += issued.eq(1)
        waits = self.waits
        waiting_for_scan = exact & ~pass_here
        m.d.comb += [
            waits.rpu.eq(rough & begun & ~gate),
            waits.select.eq(
                waiting_for_scan & approximate & scanner.unselected & (left_behind == 0)
            ),
            waits.scan.eq(waiting_for_scan & begun),
            waits.xbank.eq(exact & begun & pass_here & ~window.ready),
            waits.shallow.eq(rough & issued),
            waits.fill.eq(steps.valid),
            waits.drain.eq(1),
        ]
        with m.If(self.start | self.stop):
            m.d.sync += [
                clock.eq(0),
                row.eq(0),
                beat.eq(0),
                pixel.eq(0),
                rough_half.eq(0),
                parity.eq(0),
                half.eq(0),
                slot.eq(0),
                exact_beat.eq(0),
                beat_rows.eq(0),
                tile.eq(0),
                left_behind.eq(0),
                exact_first.eq(0),
                mask_tile.eq(config.mask_base),
                step_open.eq(0),
                tail.eq(0),
                issued.eq(0),
            ]
        return m
