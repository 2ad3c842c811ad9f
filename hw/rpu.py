"""The random projection unit: x^Q in, p out, a group of pixels at a time."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from ..common.descriptor import MAX_PIXELS, MAX_SIDE, Flag, memory_depth
from ..common.machine import TAP_PIXELS, Machine
from .fields import compute_layout, flag
from .pipeline import delay
from .projection_array import ProjectionArray
from .projection_copy import ProjectionCopy
from .projection_gather import ProjectionGather, slot_layout
from .projection_ring import ProjectionRing

__all__ = ["Rpu"]


class Rpu(wiring.Component):
    """Computes p = clamp(round(P x^Q >> p_shift)), -8 to 7, and keeps room in the memory of p.

    Work is a sequence of *slots*: a group of n pixels (`hold`, or what is left) and a tile of
    elements, element tiles inside groups. With KR row tiles, KE element tiles and L = load_cycles:

    * Gathering a slot takes n times the x^Q words of its element tile.
    * Computing it takes C = KR * max(n, L) cycles: each tile of P passes over the n pixels, a pixel
      a cycle, while the next tile loads. With KR * KE = 1 the only tile stays, and C = n.
    * The first slot starts after begin + max(L, gathering), where begin is the cycle after `start`.
      A slot that starts in cycle s computes in s to s + C - 1, and from s on the next slot is
      gathered: that one starts in s + max(C, gathering of it) or later.
    * `patch`: groups are of output pixels. The first slot of a group starts not before its n pixels
      fit in the ring; pixels freed in cycle t count from t + 1 on. What was gathered and loaded
      stays meanwhile. `ready` covers the group from (s + C - 1 of its last slot) + rpu_fill on.
    * `tap`: groups are of input pixels of a row. For each output row, the rows of the input that it
      needs and that are new are projected; then it is copied; then come the rows for the next. The
      first of them is gathered from the cycle after the last of the copy on, and starts after
      that. Copying starts in (s + C - 1 of the last slot) + rpu_fill, or at once if no row was
      new. A group of n output pixels of a row is copied in kernel**2 * n cycles, which start not
      before it fits; the groups of a row follow each other without a gap. `ready` covers it from
      (last of them) + rpu_fill on.

    C counts whole tiles, so that a group of n < L pixels is ready L - n cycles after its last pass
    would allow.

    p of pixel i lies in bank i mod T, slot (base_slot + i div T) mod p_room, nibble n of it in row
    slot * rough_beats + n div 16w. For `patch` whole tiles of `rows` nibbles are written, for `tap`
    whole beats. The tiles of P must have zeros where k or the depth ends within a tile. Depth is at
    most 32767, k of a layer (k / taps) at most `rpu.depth`. Pixels that are freed as one, and
    `hold` - 1 more, must fit in the ring, or all of the part: otherwise a group may wait for pixels
    that are used only when it is there. For `tap`, k / taps is a multiple of 4 and at most min(64,
    16w), kernel * w_in at most 2048, and pixel 0 the first of its row.

    Source: paper, section 3.5 (random projection units); slots, ring and the form `tap` are ours.

    Parameters
    ----------
    machine : Machine
    contract : Contract
        `sram_read` must be 1, `rpu` at least 4, `rpu_write` at least 1.

    Members
    -------
    start : ``In(1)``
        A part begins in the next cycle. Without the flag PROJECT its p is there already, where the
        last projected part left it.
    config : ``In(compute_layout(machine))``
        Constant from `start` on.
    abort : ``In(1)``
        Forget everything: idle from the next cycle on, the ring is empty and begins at slot 0.
    xq_en, xq_address, xq_data : read port of the x^Q memory
    matrix_en, matrix_address, matrix_data : read port of the projection memory
    p_en : ``Out(T)``
        Bank of the p memory that is written.
    p_address, p_mask, p_data : ``Out``
        Row; slices of `p_granularity` bits; a beat.
    freed : ``In``
        Pixels whose p is no longer needed, in this cycle.
    ready : ``Out``
        Pixels of the part whose p may be read.
    base_slot : ``Out``
        Slot of the first pixel of the part, from `start` on, that cycle included.
    progress : ``Out(1)``
        A word of x^Q or of P is asked for, a tile passes, or p is copied, in this cycle. A wait for
        the ring is none.

    Raises
    ------
    ValueError
        If a latency of the contract is out of range.
    """

    def __init__(self, machine: Machine, *, contract: Contract = CONTRACT):
        if contract.sram_read != 1 or contract.rpu < 4 or contract.rpu_write < 1:
            raise ValueError(
                "The projection unit needs sram_read = 1, rpu >= 4 and rpu_write >= 1, not"
                f" {contract.sram_read!r}, {contract.rpu!r} and {contract.rpu_write!r}"
            )
        self.machine, self.contract = machine, contract
        beat, pixels = 64 * machine.pses, MAX_PIXELS.bit_length()
        super().__init__(
            {
                "start": In(1),
                "config": In(compute_layout(machine)),
                "abort": In(1),
                "xq_en": Out(1),
                "xq_address": Out(ceil_log2(memory_depth(machine, "xq"))),
                "xq_data": In(4 * machine.rpu.word),
                "matrix_en": Out(1),
                "matrix_address": Out(ceil_log2(memory_depth(machine, "projection"))),
                "matrix_data": In(machine.rpu.port_bits),
                "p_en": Out(machine.columns),
                "p_address": Out(ceil_log2(memory_depth(machine, "p"))),
                "p_mask": Out(beat // self.p_granularity),
                "p_data": Out(beat),
                "freed": In(pixels),
                "ready": Out(pixels),
                "base_slot": Out(ceil_log2(memory_depth(machine, "p"))),
                "progress": Out(1),
            }
        )

    @property
    def p_granularity(self) -> int:
        """Bits of p that are written as one: a tile's rows."""
        return 4 * self.machine.rpu.rows

    def elaborate(self, platform):
        m = Module()
        machine, config, rpu = self.machine, self.config, self.machine.rpu
        tap = flag(config, Flag.TAP)
        begin = Signal()
        m.d.comb += begin.eq(self.start & flag(config, Flag.PROJECT))

        linear = max(len(self.xq_address), ceil_log2(TAP_PIXELS))
        m.submodules.gather = gather = ProjectionGather(machine, linear)
        m.submodules.array = array = ProjectionArray(rpu, contract=self.contract)
        m.submodules.copy = copy = ProjectionCopy(machine, linear)
        m.submodules.ring = ring = ProjectionRing(machine)

        # Distances in x^Q, in pixels.
        origin = Signal(linear)
        turn, skip = Signal(linear), Signal(linear)
        row = Signal(linear)
        m.d.comb += [
            row.eq(config.q_row0 * config.q_w_in),
            origin.eq(row + Mux(tap, 0, config.q_column0)),
        ]
        with m.If(begin):
            m.d.sync += [
                turn.eq(config.q_stride * (config.q_w_in - config.w_out + 1)),
                skip.eq((config.q_stride - config.q_kernel) * config.q_w_in),
            ]

        # Gathering.
        slot_start = Signal()
        m.d.comb += [
            gather.start.eq(begin),
            gather.config.eq(config),
            gather.origin.eq(origin),
            gather.turn.eq(turn),
            gather.skip.eq(skip),
            gather.limit.eq(copy.bottom),
            gather.go.eq(slot_start),
            gather.data.eq(self.xq_data),
            self.xq_en.eq(gather.en),
            self.xq_address.eq(gather.address),
            array.fill.eq(gather.fill),
            array.fill_half.eq(gather.fill_half),
            array.fill_pixel.eq(gather.fill_pixel),
            array.fill_data.eq(gather.fill_data),
        ]

        # The slot that computes: the one gathered last in its first cycle, then a copy of it.
        layout = slot_layout(machine, linear)
        slot, kept = Signal(layout), Signal(layout)
        computing, on = Signal(), Signal()
        loading = Signal()
        m.d.comb += [
            slot.eq(Mux(slot_start, gather.slot, kept)),
            slot_start.eq(
                ~computing & gather.gathered & ~loading & (tap | ~gather.slot.first | ring.fits)
            ),
            on.eq(computing | slot_start),
        ]
        with m.If(slot_start):
            m.d.sync += kept.eq(gather.slot)

        # Its passes: `step` cycles of row tile `kr`; a tile of P is in half `tile`.
        step = Signal(range(max(rpu.hold, rpu.load_cycles)))
        period = Signal(range(max(rpu.hold, rpu.load_cycles) + 1))
        kr = Signal(range(rpu.depth // rpu.rows))
        address = Signal.like(array.address)
        tile, single = Signal(), Signal()
        passing, pass_end, tile_end, last_tile, slot_end = (
            Signal(name=name)
            for name in ("passing", "pass_end", "tile_end", "last_tile", "slot_end")
        )
        m.d.comb += [
            single.eq((config.p_row_tiles == 1) & (config.p_element_tiles == 1)),
            period.eq(Mux(single | (slot.pixels > rpu.load_cycles), slot.pixels, rpu.load_cycles)),
            passing.eq(on & (step < slot.pixels)),
            pass_end.eq(step + 1 == slot.pixels),
            tile_end.eq(on & (step + 1 == period)),
            last_tile.eq(kr + 1 == config.p_row_tiles),
            slot_end.eq(tile_end & last_tile),
            array.valid.eq(passing),
            array.half.eq(slot.half),
            array.pixel.eq(step),
            array.tile.eq(tile),
            array.first.eq(slot.first),
            array.last.eq(slot.last),
            array.address.eq(address),
            array.unsigned.eq(flag(config, Flag.UNSIGNED)),
            array.shift.eq(config.p_shift),
        ]
        with m.If(on):
            m.d.sync += [
                computing.eq(~slot_end),
                step.eq(Mux(tile_end, 0, step + 1)),
                address.eq(Mux(slot_end, 0, address + passing)),
            ]
            with m.If(tile_end):
                m.d.sync += [kr.eq(Mux(last_tile, 0, kr + 1)), tile.eq(tile ^ ~single)]

        # The tile of P behind it loads from its first cycle on.
        tile_start, load = Signal(), Signal()
        matrix_address = Signal.like(self.matrix_address)
        load_half, load_word = Signal(), Signal(range(rpu.load_cycles))
        m.d.comb += [
            tile_start.eq(on & ~step.any() & ~single & ~(slot.final & last_tile)),
            load.eq(loading | tile_start),
            self.matrix_en.eq(load),
            self.matrix_address.eq(
                Mux(tile_start & slot.last & last_tile, config.p_base, matrix_address)
            ),
            array.load_data.eq(self.matrix_data),
        ]
        array_load, array_half, array_word = delay(m, 1, load, load_half, load_word)
        m.d.comb += [
            array.load.eq(array_load),
            array.load_half.eq(array_half),
            array.load_word.eq(array_word),
        ]
        with m.If(load):
            last_load = load_word == rpu.load_cycles - 1
            m.d.sync += [
                matrix_address.eq(self.matrix_address + 1),
                load_word.eq(Mux(last_load, 0, load_word + 1)),
                load_half.eq(load_half ^ last_load),
                loading.eq(~last_load),
            ]

        # What comes out of the passes, and where it goes: to its tile of p or of the tap memory.
        emits, number = Signal(), Signal(linear)
        m.d.comb += [emits.eq(passing & slot.last), number.eq(slot.linear + step)]
        out, out_kr, out_number, out_pass_end, out_last_tile = delay(
            m, array.latency, emits, kr, number, pass_end, last_tile
        )
        slices = 16 * machine.pses // rpu.rows
        beat_bits = ceil_log2(slices)
        write, step_on, rewind, commit = Signal(), Signal(), Signal(), Signal()
        beat = Signal.like(self.p_address)
        mask, data = Signal.like(self.p_mask), Signal.like(self.p_data)
        copied = Signal.like(self.p_address)  # beats of the pixel that have left
        m.d.comb += [
            copy.write.eq(Mux(tap & out, 1 << out_kr, 0)),
            copy.write_address.eq(out_number),
            copy.write_data.eq(
                array.o_nibbles.replicate(max(1, len(copy.write_data) // len(array.o_nibbles)))
            ),
        ]
        with m.If(tap):
            m.d.comb += [
                write.eq(copy.o_valid),
                step_on.eq(copy.o_valid & copy.o_last),
                commit.eq(1),
                beat.eq(copied),
                mask.eq((1 << slices) - 1),
                data.eq(copy.o_data),
            ]
        with m.Else():
            m.d.comb += [
                write.eq(out),
                step_on.eq(out),
                rewind.eq(out_pass_end & ~out_last_tile),
                commit.eq(out_pass_end & out_last_tile),
                beat.eq(out_kr >> beat_bits),
                mask.eq(1 << out_kr[:beat_bits]),
                data.eq(array.o_nibbles.replicate(slices)),
            ]
        with m.If(copy.o_valid):
            m.d.sync += copied.eq(Mux(copy.o_last, 0, copied + 1))

        # The ring, and the write into it.
        taken = Signal(1)
        m.d.comb += [
            ring.begin.eq(begin),
            ring.room.eq(config.p_room),
            ring.beats.eq(config.rough_beats),
            ring.freed.eq(self.freed),
            ring.wanted.eq(Mux(tap, copy.pixels, gather.slot.pixels)),
            taken.eq(Mux(tap, copy.take, slot_start & gather.slot.first)),
            ring.take.eq(taken),
            ring.step.eq(step_on),
            ring.rewind.eq(rewind),
            ring.commit.eq(commit),
            self.base_slot.eq(ring.base_slot),
        ]
        bank, p_row = Signal(machine.columns), Signal.like(self.p_address)
        m.d.comb += [bank.eq(1 << ring.column), p_row.eq(ring.row + beat)]
        written, bank, *place = delay(m, self.contract.rpu_write, write, bank, p_row, mask, data)
        m.d.comb += [
            self.p_en.eq(Mux(written, bank, 0)),
            *(
                port.eq(v)
                for port, v in zip((self.p_address, self.p_mask, self.p_data), place, strict=True)
            ),
        ]

        # Copying may begin when what it reads is there, p be read when it is there.
        fill = self.contract.rpu_fill - 1
        rows_done, below = Signal(), Signal(range(MAX_SIDE + 1))
        finished, finished_pixels = Signal(), Signal(range(rpu.hold + 1))
        rows = Signal(range(MAX_SIDE + 1))
        m.d.comb += [
            rows_done.eq(slot_end & slot.row_end & tap),
            below.eq(slot.row + 1),
            finished.eq(Mux(tap, copy.done, slot_end & slot.last)),
            finished_pixels.eq(Mux(tap, copy.pixels, slot.pixels)),
            copy.start.eq(begin & tap),
            copy.config.eq(config),
            copy.origin.eq(row + config.q_column0),
            copy.turn.eq(turn),
            copy.rows.eq(rows),
            copy.fits.eq(ring.fits),
        ]
        rows_usable, below = delay(m, fill, rows_done, below)
        with m.If(rows_usable):
            m.d.sync += rows.eq(below)
        usable, usable_pixels = delay(m, fill, finished, finished_pixels)
        m.d.comb += self.progress.eq(gather.walks | on | load | copy.walks)
        with m.If(usable):
            m.d.sync += self.ready.eq(self.ready + usable_pixels)

        with m.If(self.start):
            m.d.sync += self.ready.eq(Mux(begin, 0, config.pixels))
        with m.If(begin):
            m.d.sync += [loading.eq(1), load_word.eq(0), load_half.eq(0), tile.eq(0), rows.eq(0)]
            m.d.sync += matrix_address.eq(config.p_base)
        return ResetInserter(self.abort)(m)
