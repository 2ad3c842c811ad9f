"""Structured machine: which beat of which batch issues when, and what it reads.

Two stages. The fetch stage holds the next batch and reads its x words, one a bank and cycle; the
issue stage repeats a batch for each essential channel of its fullest group, or for the two rows of
an approximate unit. A batch moves on when its words are there, its weights are loaded, and the
batch before has issued for the last time; so bank conflicts hide behind the issues of the batch
before.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from ..common.descriptor import MAX_PIXELS, Flag, memory_depth
from ..common.machine import Machine
from ..common.scheme import GROUP
from .engine import WAITS
from .fields import compute_layout, flag
from .group_loader import SETS
from .pipeline import popcount, wrapped
from .positions import POSITION, first_position, inside, step_batch, step_pixel
from .steps import Steps

__all__ = ["BatchIssuer", "decision_layout"]


def decision_layout(machine: Machine) -> StructLayout:
    """What a cycle of issue carries through the pipeline.

    exact: phase. first, last: beat of the dot product. new: first issue of the batch. half, set: of
    the group buffer and of the parameters. address: accumulator. row: index in the group of an
    approximate output. y_row: line of the outputs. mask_row, slot: of the batch in the mask memory
    and in the rankers. columns: which pixels exist. lanes: for each lane, how many channels.
    """
    return StructLayout(
        {
            "exact": 1,
            "first": 1,
            "last": 1,
            "new": 1,
            "half": 1,
            "set": ceil_log2(SETS),
            "address": ceil_log2(machine.accumulators),
            "row": 3,
            "y_row": ceil_log2(memory_depth(machine, "y")),
            "mask_row": ceil_log2(memory_depth(machine, "masks")),
            "slot": ceil_log2(max(2, machine.collector)),
            "columns": machine.columns,
            "widths": ArrayLayout(4, machine.lanes),
        }
    )


class BatchIssuer(wiring.Component):
    """The sequencer of the structured machine's vector units.

    Members
    -------
    config : ``In(compute_layout(machine))``
    start : ``In(1)``
        Launch: cycle 0 is the next one.
    stop : ``In(1)``
        Forget everything.
    go : ``Out(1)``
        Pulse: loads and the projection unit may begin in the next cycle.
    ready : ``In``
        Pixels of the part whose p may be issued.
    base_slot : ``In``
        Slot of the p memory of the part's first batch.
    freed : ``Out``
        Pixels whose p is used up with this cycle.
    unit_ready : ``In(1)``, unit_begun, unit_ended : ``Out(1)``
        To the weight loader.
    mask_en, mask_address : ``Out``, mask : ``In(8 V T)``
        Read port of the mask memory.
    x_en : ``Out(T)``, x_address : ``Out`` each
        Read ports of the x banks.
    fetched : ``Out(T)``, bank : ``Out`` each, tap : ``Out(T)``
        For each column: its word is read in this cycle, from which bank, and whether the tap of the
        batch that issues for the first time lies inside the input.
    p_en, p_address : ``Out``
        Read of all p banks.
    issue : ``Out(1)``, decision : ``Out(decision_layout(machine))``
        A beat issues, and which.
    chosen : ``Out(8)`` for each VPU
        One-hot: the channel of the group that it computes; 0 for none.
    running : ``Out(1)``
        From cycle 0 until the last output is written.
    waits : ``Out(1)`` each: rpu, select, scan, xbank, shallow, fill, drain
        What is missing in a cycle without issue; several may hold, the first counts.
    step_begin, step_end : ``Out(1)``
        First and last issue of a step.
    done : ``Out(1)``
        Pulse, in the cycle after the last of `running`.
    """

    def __init__(self, machine: Machine, *, contract: Contract = CONTRACT):
        self.machine, self.contract = machine, contract
        x_bits = ceil_log2(memory_depth(machine, "x"))
        columns = machine.columns
        super().__init__(
            {
                "config": In(compute_layout(machine)),
                "start": In(1),
                "stop": In(1),
                "go": Out(1),
                "ready": In(MAX_PIXELS.bit_length()),
                "base_slot": In(ceil_log2(memory_depth(machine, "p"))),
                "freed": Out(MAX_PIXELS.bit_length()),
                "unit_ready": In(1),
                "unit_begun": Out(1),
                "unit_ended": Out(1),
                "mask_en": Out(1),
                "mask_address": Out(ceil_log2(memory_depth(machine, "masks"))),
                "mask": In(8 * machine.vpus),
                "x_en": Out(columns),
                "x_address": Out(x_bits).array(columns),
                "fetched": Out(columns),
                "bank": Out(max(1, ceil_log2(columns))).array(columns),
                "tap": Out(columns),
                "p_en": Out(1),
                "p_address": Out(ceil_log2(memory_depth(machine, "p"))),
                "issue": Out(1),
                "decision": Out(decision_layout(machine)),
                "chosen": Out(GROUP).array(machine.vpus),
                "running": Out(1),
                "waits": Out(WAITS),
                "step_begin": Out(1),
                "step_end": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        machine, config = self.machine, self.config
        columns, lanes = machine.columns, machine.lanes
        log_columns = columns.bit_length() - 1
        batch_bits = MAX_PIXELS.bit_length()

        m.submodules.steps = steps = Steps(machine)
        m.d.comb += [steps.config.eq(config), steps.stop.eq(self.stop)]
        approximate = flag(config, Flag.APPROXIMATE)
        rough = Signal()
        m.d.comb += rough.eq(steps.valid & ~steps.exact)

        # --- Launch: the columns walk to their first pixels, one a cycle.
        launch = self.contract.launch(columns)
        clock = Signal(range(launch + 2))  # cycles since the launch, held at `launch`
        begun = Signal()
        m.d.comb += begun.eq(clock == launch)
        positions = [Signal(POSITION, name=f"position_{t}") for t in range(columns)]
        origins = [Signal(POSITION, name=f"origin_{t}") for t in range(columns)]
        walker = Signal(POSITION)
        walked = Signal(POSITION)
        m.d.comb += _assign(walked, step_pixel(config, walker))
        with m.If(self.running & ~begun):
            m.d.sync += clock.eq(clock + 1)
        m.d.comb += [
            self.go.eq(self.running & (clock == launch - 1)),
            steps.start.eq(self.start),
        ]
        with m.If(clock == self.contract.descriptor - 1):
            m.d.sync += _assign(walker, first_position(config))
        with m.Elif(self.running & ~begun):
            m.d.sync += walker.eq(walked)
            for t in range(columns):
                with m.If(clock == self.contract.descriptor + t):
                    m.d.sync += [positions[t].eq(walker), origins[t].eq(walker)]

        # --- The batch in the fetch stage.
        batch = Signal(batch_bits)  # within its sub-block or tile
        sub, sub_first = Signal(batch_bits), Signal(batch_bits)
        pair, beat = Signal(2), Signal(20)
        tap_row, tap_column, word = Signal(4), Signal(4), Signal(16)
        tap_linear, word_row = Signal(22), Signal(22)
        rough_lines, exact_lines = Signal(batch_bits), Signal(batch_bits)  # group * batches
        rough_masks, exact_masks = Signal.like(self.mask_address), Signal.like(self.mask_address)
        p_block, p_sub, p_batch = (Signal(24, name=name) for name in ("p_block", "p_sub", "p_at"))

        deep = steps.deep
        sub_count = Mux(deep, config.sub_count_deep, config.sub_count)
        sub_more = Mux(deep, config.sub_more_deep, config.sub_more)
        sub_depth = Signal(batch_bits)
        depth = Signal(batch_bits)
        m.d.comb += [
            sub_depth.eq(Mux(deep, config.sub_depth_deep, config.sub_depth) + (sub < sub_more)),
            depth.eq(Mux(steps.exact, steps.depth, sub_depth)),
        ]
        last_batch, last_beat, first_beat = Signal(), Signal(), Signal()
        last_pair, last_sub, last_item = Signal(), Signal(), Signal()
        tap_ends, row_ends, words_end = Signal(), Signal(), Signal()
        m.d.comb += [
            last_batch.eq(batch + 1 == depth),
            words_end.eq(word + 1 == config.x_words),
            tap_ends.eq(tap_column + 1 == config.kernel),
            row_ends.eq(tap_row + 1 == config.kernel),
            last_beat.eq(
                Mux(
                    steps.exact,
                    words_end & tap_ends & row_ends,
                    beat + 1 == config.rough_beats,
                )
            ),
            first_beat.eq(
                Mux(steps.exact, ~(word.any() | tap_column.any() | tap_row.any()), beat == 0)
            ),
            last_pair.eq(pair == 3),
            last_sub.eq(sub + 1 == sub_count),
            last_item.eq(last_batch & last_beat & (steps.exact | (last_pair & last_sub))),
        ]

        absolute = Signal(batch_bits)
        m.d.comb += absolute.eq(steps.first + batch + Mux(steps.exact, 0, sub_first))
        exists = Signal(columns)
        first_pixel = absolute << log_columns
        m.d.comb += [exists[t].eq(first_pixel + t < config.pixels) for t in range(columns)]
        widths = Signal(ArrayLayout(4, lanes))
        for v in range(lanes):
            left = config.channels - ((steps.group << (lanes * GROUP).bit_length() - 1) + 8 * v)
            m.d.comb += widths[v].eq(Mux(left < 0, 0, Mux(left > GROUP, GROUP, left)))

        # Gates: p of the sub-block is there; the essential neurons of the tile are known.
        gate = Signal()
        needed = Signal(batch_bits + 1)
        end = (steps.first + sub_first + sub_depth) << log_columns
        m.d.comb += needed.eq(Mux(end > config.pixels, config.pixels, end))
        selected = Signal(2)  # tiles selected whose EXACT is not over
        m.d.comb += gate.eq(Mux(steps.exact, ~approximate | selected.any(), self.ready >= needed))

        # Essential channels of each VPU (v, t), and the issues of the batch.
        masks = [Signal(GROUP, name=f"mask_{v}_{t}") for t in range(columns) for v in range(lanes)]
        for t in range(columns):
            for v in range(lanes):
                there = Cat(i < widths[v] for i in range(GROUP))
                stored = self.mask.word_select(t * lanes + v, GROUP)
                m.d.comb += masks[t * lanes + v].eq(
                    Mux(exists[t], there & Mux(approximate, stored, 0xFF), 0)
                )
        counts = [popcount(mask) for mask in masks]
        most = Signal(4)
        m.d.comb += most.eq(_greatest(m, counts))
        issues = Signal(4)
        empty = Signal()
        m.d.comb += [
            empty.eq(steps.exact & (most == 0)),
            issues.eq(Mux(steps.exact, Mux(most == 0, 1, most), 2)),
        ]

        # --- x words: each bank serves the first column that still needs it.
        served = Signal(columns)
        wants = Signal(columns)
        serve = Signal(columns)
        fetching = Signal()
        m.d.comb += fetching.eq(steps.valid & steps.exact & gate & begun & ~empty)
        banks, taps = [], []
        for t in range(columns):
            linear = Signal(22, name=f"linear_{t}")
            tap = Signal(name=f"tap_{t}")
            m.d.comb += [
                linear.eq(positions[t].linear + tap_linear),
                tap.eq(exists[t] & inside(config, positions[t], tap_row, tap_column)),
                wants[t].eq(fetching & tap & ~served[t]),
            ]
            bank = linear[:log_columns] if log_columns else Const(0, 1)
            banks.append(bank)
            taps.append(tap)
            m.d.comb += self.bank[t].eq(bank)
            row = config.x_base + word_row + (linear >> log_columns)
            if t == 0:
                rows = [row]
            else:
                rows.append(row)
        for b in range(columns):
            asks = [wants[t] & (banks[t] == b) for t in range(columns)]
            taken = Const(0)
            grants = []
            for ask in asks:
                grants.append(ask & ~taken)
                taken = taken | ask
            m.d.comb += self.x_en[b].eq(taken)
            address = Const(0, len(self.x_address[b]))
            for grant, row in zip(grants, rows, strict=True):
                address = Mux(grant, row, address)
            m.d.comb += self.x_address[b].eq(address)
            for t, grant in enumerate(grants):
                with m.If(grant):
                    m.d.comb += serve[t].eq(1)
        complete = Signal()
        m.d.comb += [
            complete.eq(~steps.exact | empty | (gate & ~(wants & ~serve).any())),
            self.fetched.eq(serve),
            self.tap.eq(Cat(taps)),
        ]

        # --- Moving on to the issue stage.
        remaining = Signal(4)
        begins = Signal()
        new_unit = Signal()
        unit_there = Signal()
        m.d.comb += [
            new_unit.eq(batch == 0),
            unit_there.eq(~new_unit | self.unit_ready),
            begins.eq(steps.valid & begun & gate & complete & unit_there & (remaining == 0)),
            self.unit_begun.eq(begins & new_unit),
        ]
        m.d.sync += served.eq(Mux(begins, 0, served | serve))

        # What the issue stage knows of its batch; in the first cycle it comes from the fetch stage.
        layout = StructLayout(
            {
                "decision": decision_layout(machine),
                "bubble": 1,
                "last_batch": 1,
                "last_item": 1,
                "freed": len(self.freed),
            }
        )
        here, kept, item = (Signal(layout, name=name) for name in ("here", "kept", "item"))
        half, chosen_set = Signal(), Signal(ceil_log2(SETS))
        address = Signal(len(here.decision.address))
        lines = Mux(steps.exact, exact_lines, rough_lines)
        mask_rows = memory_depth(machine, "masks")
        mask_row = wrapped(
            Mux(steps.exact, exact_masks, rough_masks) + batch + Mux(steps.exact, 0, sub_first),
            mask_rows,
        )
        pixels_here = Signal(batch_bits + 1)
        block_end = (steps.first + steps.depth) << log_columns
        m.d.comb += [
            pixels_here.eq(
                Mux(block_end > config.pixels, config.pixels, block_end)
                - (steps.first << log_columns)
            ),
            here.decision.exact.eq(steps.exact),
            here.decision.first.eq(first_beat),
            here.decision.last.eq(last_beat),
            here.decision.new.eq(1),
            here.decision.half.eq(half),
            here.decision.set.eq(chosen_set),
            here.decision.address.eq(Mux(new_unit, 0, address)),
            here.decision.row.eq(Cat(Const(0, 1), pair)),
            here.decision.y_row.eq(lines + absolute),
            here.decision.mask_row.eq(mask_row),
            here.decision.slot.eq(batch),
            here.decision.columns.eq(exists),
            here.decision.widths.eq(widths),
            here.bubble.eq(empty),
            here.last_batch.eq(last_batch),
            here.last_item.eq(last_item),
            here.freed.eq(
                Mux(
                    ~steps.exact & steps.last_group & last_item & flag(config, Flag.RELEASE),
                    pixels_here,
                    0,
                )
            ),
        ]
        again = Signal(layout)
        m.d.comb += [
            again.eq(kept),
            again.decision.new.eq(0),
            again.decision.row.eq(kept.decision.row | 1),
            again.decision.address.eq(address),
            item.eq(Mux(begins, here, again)),
        ]
        active, last_issue = Signal(), Signal()
        m.d.comb += [
            active.eq(begins | remaining.any()),
            last_issue.eq(Mux(begins, issues == 1, remaining == 1)),
            self.issue.eq(active & ~item.bubble),
            self.decision.eq(item.decision),
            self.unit_ended.eq(active & last_issue & item.last_batch),
            self.freed.eq(Mux(active & last_issue, item.freed, 0)),
            self.step_end.eq(active & last_issue & item.last_item),
            self.p_en.eq(begins & rough),
            self.p_address.eq(p_batch + beat),
        ]
        with m.If(begins):
            m.d.sync += [kept.eq(here), remaining.eq(issues - 1)]
        with m.Elif(remaining.any()):
            m.d.sync += remaining.eq(remaining - 1)
        with m.If(self.issue):
            m.d.sync += address.eq(item.decision.address + 1)
        with m.Elif(begins & new_unit):
            m.d.sync += address.eq(0)
        with m.If(begins & last_batch):
            m.d.sync += half.eq(~half)
        with m.If(begins & last_item):
            m.d.sync += chosen_set.eq(chosen_set + 1)

        # The channel each VPU takes: its lowest essential one that is left.
        for n, mask in enumerate(masks):
            left = Signal(GROUP, name=f"left_{n}")
            now = Signal(GROUP, name=f"now_{n}")
            m.d.comb += [
                now.eq(Mux(begins, mask, left)),
                self.chosen[n].eq(now & -now),
            ]
            with m.If(active):
                m.d.sync += left.eq(now & (now - 1))

        # Steps as the outside sees them.
        step_open = Signal()
        m.d.comb += self.step_begin.eq(begins & ~step_open)
        with m.If(begins):
            m.d.sync += step_open.eq(1)
        with m.If(self.step_end):
            m.d.sync += step_open.eq(0)

        # --- The next batch.
        m.d.comb += steps.advance.eq(begins & last_item)
        p_next, p_room = Signal(24), Signal(24)
        m.d.comb += [
            p_room.eq(config.p_room * config.rough_beats),
            p_next.eq(Mux(p_batch + config.rough_beats == p_room, 0, p_batch + config.rough_beats)),
        ]
        stepped = [Signal(POSITION, name=f"stepped_{t}") for t in range(columns)]
        for t in range(columns):
            m.d.comb += _assign(stepped[t], step_batch(config, positions[t]))
        with m.If(begins):
            with m.If(~last_batch):
                m.d.sync += batch.eq(batch + 1)
                with m.If(steps.exact):
                    m.d.sync += [old.eq(new) for old, new in zip(positions, stepped, strict=True)]
                with m.Else():
                    m.d.sync += p_batch.eq(p_next)
            with m.Else():
                m.d.sync += batch.eq(0)
                with m.If(steps.exact):
                    m.d.sync += [old.eq(new) for old, new in zip(positions, origins, strict=True)]
                    m.d.sync += [word.eq(word + 1), word_row.eq(word_row + config.x_plane)]
                    with m.If(words_end):
                        m.d.sync += [word.eq(0), word_row.eq(0)]
                        m.d.sync += [tap_column.eq(tap_column + 1), tap_linear.eq(tap_linear + 1)]
                        with m.If(tap_ends):
                            m.d.sync += [
                                tap_column.eq(0),
                                tap_row.eq(tap_row + 1),
                                tap_linear.eq(tap_linear + config.w_in - config.kernel + 1),
                            ]
                            with m.If(row_ends):
                                m.d.sync += [tap_row.eq(0), tap_linear.eq(0)]
                    with m.If(last_item):
                        m.d.sync += exact_masks.eq(wrapped(exact_masks + steps.depth, mask_rows))
                        m.d.sync += exact_lines.eq(
                            Mux(steps.last_group, 0, exact_lines + config.batches)
                        )
                        with m.If(steps.last_group):
                            m.d.sync += [
                                old.eq(new)
                                for olds in (positions, origins)
                                for old, new in zip(olds, stepped, strict=True)
                            ]
                with m.Else():
                    m.d.sync += [p_batch.eq(p_sub), beat.eq(beat + 1)]
                    with m.If(last_beat):
                        m.d.sync += [beat.eq(0), pair.eq(pair + 1)]
                        with m.If(last_pair):
                            m.d.sync += [
                                sub.eq(sub + 1),
                                sub_first.eq(sub_first + sub_depth),
                                p_sub.eq(p_next),
                                p_batch.eq(p_next),
                            ]
                    with m.If(last_item):
                        begin = Mux(steps.last_group, p_next, p_block)
                        m.d.sync += [
                            sub.eq(0),
                            sub_first.eq(0),
                            p_block.eq(begin),
                            p_sub.eq(begin),
                            p_batch.eq(begin),
                            rough_masks.eq(wrapped(rough_masks + steps.depth, mask_rows)),
                            rough_lines.eq(Mux(steps.last_group, 0, rough_lines + config.batches)),
                        ]

        # The mask of the batch that the fetch stage holds in the next cycle.
        following = Mux(steps.exact, Mux(last_batch & ~last_item, 0, batch + 1), 0)
        m.d.comb += [
            self.mask_en.eq(steps.valid & approximate),
            self.mask_address.eq(
                wrapped(exact_masks + Mux(begins, following, Mux(steps.exact, batch, 0)), mask_rows)
            ),
        ]

        # Selection is over a fixed time after the last issue of an approximate step.
        token = self.step_end & ~item.decision.exact & flag(config, Flag.EXACT)
        for stage in range(self.contract.to_indices - 1):
            later = Signal(name=f"selecting_{stage}")
            m.d.sync += later.eq(token & ~self.stop & ~self.start)
            token = later
        m.d.sync += selected.eq(selected + token - (begins & last_item & steps.exact & approximate))

        # --- The end, and why a cycle passes without issue.
        tail = Signal(range(self.contract.drain + 1))
        finished = Signal()
        with m.If(self.step_end & ~steps.valid | self.step_end & steps.last & begins):
            m.d.sync += tail.eq(self.contract.drain - 1)
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
        m.d.comb += [
            waits.rpu.eq(rough & begun & ~gate & ~active),
            waits.select.eq(steps.valid & steps.exact & ~gate & ~active),
            waits.scan.eq(active & item.bubble),
            waits.xbank.eq(steps.valid & begun & ~complete & ~active),
            waits.shallow.eq(steps.valid & issued),
            waits.fill.eq(steps.valid),
            waits.drain.eq(1),
        ]

        with m.If(self.start | self.stop):
            m.d.sync += [
                clock.eq(0),
                batch.eq(0),
                sub.eq(0),
                sub_first.eq(0),
                pair.eq(0),
                beat.eq(0),
                tap_row.eq(0),
                tap_column.eq(0),
                word.eq(0),
                tap_linear.eq(0),
                word_row.eq(0),
                rough_lines.eq(0),
                exact_lines.eq(0),
                rough_masks.eq(config.mask_base),
                exact_masks.eq(config.mask_base),
                served.eq(0),
                remaining.eq(0),
                half.eq(0),
                chosen_set.eq(0),
                selected.eq(0),
                step_open.eq(0),
                tail.eq(0),
                issued.eq(0),
            ]
        # The ring of p goes on from part to part; its place is known when the launch is over.
        with m.If(self.running & ~begun):
            base = self.base_slot * config.rough_beats
            m.d.sync += [p_block.eq(base), p_sub.eq(base), p_batch.eq(base)]
        return m


def _assign(target, values):
    return [target[name].eq(value) for name, value in values.items()]


def _greatest(m: Module, values):
    values = list(values)
    while len(values) > 1:
        pairs = []
        for a, b in zip(values[::2], values[1::2], strict=False):
            greater = Signal(4)
            m.d.comb += greater.eq(Mux(a > b, a, b))
            pairs.append(greater)
        values = pairs + values[len(pairs) * 2 :]
    return values[0]
