"""The structured machine's compute engine: groups of eight channels, batches of T pixels."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring

from ..common.contract import CONTRACT, Contract
from ..common.descriptor import Flag
from ..common.machine import Machine
from ..common.scheme import GROUP
from .batch_issuer import BatchIssuer, decision_layout
from .crossbar import Crossbar
from .engine import engine_members
from .fields import flag
from .group_buffer import GroupBuffer
from .group_loader import GroupLoader
from .pipeline import carried
from .post import Post
from .pse import Precision
from .ranker import Ranker
from .share import shared
from .vpu import VPU

__all__ = ["StructuredEngine"]


class StructuredEngine(wiring.Component):
    """V lanes of T VPUs: a lane's weights serve T pixels, a pixel's x word serves V lanes.

    Members as :func:`sinai.hw.engine.engine_members` describes them.
    """

    def __init__(self, machine: Machine, *, contract: Contract = CONTRACT):
        self.machine, self.contract = machine, contract
        super().__init__(engine_members(machine))

    def elaborate(self, platform):
        m = Module()
        machine, contract, config = self.machine, self.contract, self.config
        lanes, columns, word = machine.lanes, machine.columns, 16 * machine.pses
        beta = machine.weight_words
        layout = decision_layout(machine)

        m.submodules.issuer = issuer = BatchIssuer(machine, contract=contract)
        m.submodules.loader = loader = GroupLoader(machine)
        m.d.comb += [
            issuer.config.eq(config),
            issuer.start.eq(self.start),
            issuer.stop.eq(self.stop),
            issuer.ready.eq(self.ready),
            issuer.base_slot.eq(self.base_slot),
            issuer.unit_ready.eq(loader.ready),
            loader.config.eq(config),
            loader.start.eq(issuer.go),
            loader.stop.eq(self.stop | self.start),
            loader.begun.eq(issuer.unit_begun),
            loader.ended.eq(issuer.unit_ended),
            self.go.eq(issuer.go),
            self.freed.eq(issuer.freed),
            self.running.eq(issuer.running),
            self.done.eq(issuer.done),
            self.issue.eq(issuer.issue),
            self.waits.eq(issuer.waits),
            self.step_begin.eq(issuer.step_begin),
            self.step_end.eq(issuer.step_end),
            self.step_exact.eq(issuer.decision.exact),
        ]

        # --- Cycle 0 of an issue: the memories are read.
        for bank in self.weights:
            m.d.comb += [bank.en.eq(loader.weights_en), bank.address.eq(loader.weights_address)]
        for bank in self.parameters:
            m.d.comb += [
                bank.en.eq(loader.parameters_en),
                bank.address.eq(loader.parameters_address),
            ]
        for t in range(columns):
            m.d.comb += [
                self.x[t].en.eq(issuer.x_en[t]),
                self.x[t].address.eq(issuer.x_address[t]),
                self.p[t].en.eq(issuer.p_en),
                self.p[t].address.eq(issuer.p_address),
            ]
        m.d.comb += [
            self.masks[0].en.eq(issuer.mask_en),
            self.masks[0].address.eq(issuer.mask_address),
            issuer.mask.eq(self.masks[0].data),
        ]

        # --- Cycle 1: words become operands.
        m.submodules.crossbar = crossbar = Crossbar(columns, word)
        fetched, tap, chosen = Signal(columns), Signal(columns), Signal(GROUP * machine.vpus)
        m.d.comb += [
            fetched.eq(issuer.fetched),
            tap.eq(issuer.tap),
            chosen.eq(Cat(issuer.chosen)),
        ]
        fetched_1 = Signal(columns)
        banks_1 = [Signal.like(bank, name=f"bank_{t}_1") for t, bank in enumerate(issuer.bank)]
        m.d.sync += [
            fetched_1.eq(fetched),
            *(b.eq(a) for a, b in zip(issuer.bank, banks_1, strict=True)),
        ]
        issue_1, decision_1, chosen_1, tap_1 = carried(
            m, 1, "fed", issuer.issue, issuer.decision, chosen, tap
        )
        decision_1 = layout(decision_1)
        m.d.comb += [
            crossbar.fetched.eq(fetched_1),
            crossbar.take.eq(issue_1 & decision_1.new & decision_1.exact),
            crossbar.tap.eq(tap_1),
        ]
        for t in range(columns):
            m.d.comb += [crossbar.data[t].eq(self.x[t].data), crossbar.bank[t].eq(banks_1[t])]
        p_operands = [Signal(4 * word, name=f"p_{t}", reset_less=True) for t in range(columns)]
        with m.If(issue_1 & decision_1.new & ~decision_1.exact):
            m.d.sync += [old.eq(port.data) for old, port in zip(p_operands, self.p, strict=True)]

        buffers = []
        for v in range(lanes):
            buffer = GroupBuffer(machine)
            m.submodules[f"lane_{v}"] = shared(buffer, platform)
            m.d.comb += [
                buffer.fill.eq(loader.fill),
                buffer.fill_half.eq(loader.fill_half),
                buffer.fill_words.eq(loader.fill_words),
                buffer.fill_parameters.eq(loader.fill_parameters),
                buffer.fill_set.eq(loader.fill_set),
                buffer.take.eq(issue_1),
                buffer.half.eq(decision_1.half),
                buffer.wide.eq(~decision_1.exact),
                buffer.odd.eq(decision_1.row[0]),
            ]
            for n in range(beta):
                m.d.comb += [
                    buffer.weights[n].eq(self.weights[v * beta + n].data),
                    buffer.parameters[n].eq(self.parameters[v * beta + n].data),
                ]
            for t in range(columns):
                at = GROUP * (t * lanes + v)
                m.d.comb += buffer.index[t].eq(
                    Mux(
                        decision_1.exact,
                        _index(chosen_1[at : at + GROUP]),
                        Cat(Const(0, 2), decision_1.row[0]),
                    )
                )
            buffers.append(buffer)

        # --- Cycle 2: the VPUs take them.
        issue_2, decision_2, chosen_2 = carried(
            m, contract.operand, "taken", issue_1, decision_1, chosen_1
        )
        decision_2 = layout(decision_2)

        # Beside the VPUs runs what their results need.
        ending = Signal()
        m.d.comb += ending.eq(issue_2 & decision_2.last)
        _, scaled, scaled_chosen = carried(
            m, contract.vpu - 1, "scaled", ending, decision_2, chosen_2
        )
        summed_valid, summed, summed_chosen = carried(
            m, contract.vpu, "summed", ending, decision_2, chosen_2
        )
        scaled, summed = layout(scaled), layout(summed)
        rough_ending = Signal()
        m.d.comb += rough_ending.eq(summed_valid & ~summed.exact)
        z_valid, z_decision = carried(m, contract.requantise, "ranked", rough_ending, summed)
        z_decision = layout(z_decision)
        bytes_of_masks = []
        for t in range(columns):
            for v in range(lanes):
                n = t * lanes + v
                at = GROUP * n
                one_hot = chosen_2[at : at + GROUP]
                exact_valid = one_hot.any()
                rough_valid = decision_2.columns[t] & (decision_2.row < decision_2.widths[v])
                vpu = VPU(machine.pses, machine.accumulators, contract=contract)
                m.submodules[f"vpu_{v}_{t}"] = shared(vpu, platform)
                exact = decision_2.exact
                m.d.comb += [
                    vpu.valid.eq(issue_2 & Mux(exact, exact_valid, rough_valid)),
                    vpu.mode.eq(Mux(exact, Precision.INT16, Precision.INT4)),
                    vpu.first.eq(decision_2.first),
                    vpu.last.eq(decision_2.last),
                    vpu.address.eq(decision_2.address),
                    vpu.x.eq(Mux(exact, crossbar.x[t], p_operands[t])),
                    vpu.weights.eq(Cat(buffers[v].low[t], buffers[v].high)),
                ]

                # Parameters, a cycle before the total.
                m.d.comb += [
                    buffers[v].set.eq(scaled.set),
                    buffers[v]
                    .scale[t]
                    .eq(Mux(scaled.exact, _index(scaled_chosen[at : at + GROUP]), scaled.row)),
                ]
                post = Post(3 + len(summed.y_row), contract=contract)
                m.submodules[f"post_{v}_{t}"] = shared(post, platform)
                index = Mux(summed.exact, _index(summed_chosen[at : at + GROUP]), summed.row)
                m.d.comb += [
                    post.valid.eq(vpu.o_valid),
                    post.total.eq(vpu.o_sum),
                    post.rough.eq(~summed.exact),
                    post.parameters.eq(buffers[v].scales[t]),
                    post.address.eq(Cat(index, summed.y_row)),
                    post.shift.eq(config.shift),
                    post.rough_shift.eq(config.rough_shift),
                    post.gain_shift.eq(config.gain_shift),
                    post.relu.eq(flag(config, Flag.RELU)),
                    post.add_residual.eq(flag(config, Flag.RESIDUAL)),
                    post.keep_sum.eq(flag(config, Flag.STORE_SUM)),
                    self.residual[n].en.eq(post.residual_en),
                    self.residual[n].address.eq(config.residual_base + post.residual_address),
                    post.residual_data.eq(self.residual[n].data),
                    self.y[n].en.eq(post.y_en),
                    self.y[n].address.eq(config.y_base + post.y_address),
                    self.y[n].data.eq(post.y),
                    self.sums[n].en.eq(post.sum_en),
                    self.sums[n].address.eq(config.sum_base + post.y_address),
                    self.sums[n].data.eq(post.sum),
                ]

                # Selection.
                ranker = Ranker(machine.collector, contract=contract)
                m.submodules[f"ranker_{v}_{t}"] = shared(ranker, platform)
                m.d.comb += [
                    ranker.valid.eq(z_valid & z_decision.columns[t]),
                    ranker.z.eq(post.z),
                    ranker.slot.eq(z_decision.slot),
                    ranker.row.eq(z_decision.row),
                    ranker.exists.eq(z_decision.row < z_decision.widths[v]),
                    ranker.use_rank.eq(flag(config, Flag.RANK)),
                    ranker.essential.eq(config.essential),
                    ranker.theta.eq(config.theta),
                ]
                bytes_of_masks.append(Mux(ranker.o_valid, ranker.o_mask, 0))

        group_ends = Signal()
        m.d.comb += group_ends.eq(z_valid & (z_decision.row == GROUP - 1))
        mask_valid, mask_decision = carried(m, contract.rank, "masked", group_ends, z_decision)
        m.d.comb += [
            self.select[0].en.eq(mask_valid & ~flag(config, Flag.INJECT)),
            self.select[0].address.eq(layout(mask_decision).mask_row),
            self.select[0].data.eq(Cat(bytes_of_masks)),
        ]
        return m


def _index(one_hot):
    """Position of the one that is set."""
    return Cat(Cat(one_hot[i] for i in range(GROUP) if i >> bit & 1).any() for bit in range(3))
