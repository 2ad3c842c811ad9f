"""The accelerator: host port, streams, memories, projection unit and compute engine."""

from __future__ import annotations

from typing import ClassVar

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..common.contract import CONTRACT, STALL_CAUSES, Contract
from ..common.machine import Machine
from .counters import CauseCounters
from .dma import Dma
from .host import HostPort
from .memories import Memories
from .queue import DescriptorQueue
from .registers import COMPUTE_SLOTS, TRANSFER_SLOTS
from .rpu import Rpu
from .structured import StructuredEngine
from .unstructured import UnstructuredEngine

__all__ = ["Core"]


class Core(wiring.Component):
    """The whole machine. The host writes descriptors over a 32-bit port; data come and go by
    streams of D = 8 `dma.bytes_per_cycle` bits.

    Names and meanings of the ports: :attr:`MEANINGS`. The monitor ports only show what goes on.

    Parameters
    ----------
    machine : Machine
    contract : Contract
        Latencies of the units.
    """

    MEANINGS: ClassVar[dict[str, str]] = {
        "host_valid": "the host asks for an access",
        "host_write": "it writes; otherwise it reads",
        "host_address": "byte address, a multiple of 4; registers.json lists them",
        "host_write_data": "word to write",
        "host_ready": "the access is taken",
        "host_read_valid": "host_read_data is the word of the read taken last",
        "host_read_data": "word read",
        "in_valid": "a word of the input stream is offered",
        "in_ready": "it is taken",
        "in_data": "the word",
        "out_valid": "a word of the output stream is offered",
        "out_ready": "it is taken",
        "out_data": "the word",
        "monitor_running": "a compute is under way",
        "monitor_issue": "a vector unit issues",
        "monitor_cause": "cause of a cycle without issue, its place in the list of causes",
        "monitor_begin": "first issue of a step",
        "monitor_end": "last issue of a step",
        "monitor_exact": "phase of the step that issues: 1 is EXACT",
        "monitor_done": "a compute has ended",
        "monitor_transfer": "a transfer is under way",
    }

    #: Name of its Verilog module.
    module_name = "sinai_core"

    def __init__(self, machine: Machine, *, contract: Contract = CONTRACT):
        self.machine, self.contract = machine, contract
        width = 8 * machine.dma.bytes_per_cycle
        super().__init__(
            {
                "host_valid": In(1),
                "host_write": In(1),
                "host_address": In(16),
                "host_write_data": In(32),
                "host_ready": Out(1),
                "host_read_valid": Out(1),
                "host_read_data": Out(32),
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_data": In(width),
                "out_valid": Out(1),
                "out_ready": In(1),
                "out_data": Out(width),
                "monitor_running": Out(1),
                "monitor_issue": Out(1),
                "monitor_cause": Out(4),
                "monitor_begin": Out(1),
                "monitor_end": Out(1),
                "monitor_exact": Out(1),
                "monitor_done": Out(1),
                "monitor_transfer": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        machine, contract = self.machine, self.contract
        m.submodules.computes = computes = DescriptorQueue(
            machine, "compute", slots=COMPUTE_SLOTS, contract=contract
        )
        m.submodules.transfers = transfers = DescriptorQueue(
            machine, "transfer", slots=TRANSFER_SLOTS, contract=contract
        )
        m.submodules.host = host = HostPort(machine)
        m.submodules.dma = dma = Dma(machine)
        m.submodules.rpu = rpu = Rpu(machine, contract=contract)
        kind = UnstructuredEngine if machine.unstructured else StructuredEngine
        m.submodules.engine = engine = kind(machine, contract=contract)
        m.submodules.memories = memories = Memories(
            machine, rpu.p_granularity, len(dma.load_row), len(dma.store_row)
        )
        m.submodules.counters = counters = CauseCounters()

        # A compute starts when its transfers are done, and is over when its last output is written.
        config = computes.fields
        launched, launch = Signal(), Signal()
        m.d.comb += [
            launch.eq(computes.valid & ~launched & (transfers.head >= config.wait) & ~engine.done),
            engine.start.eq(launch),
            engine.config.eq(config),
            rpu.config.eq(config),
            rpu.start.eq(engine.go),
            computes.take.eq(engine.done),
        ]
        with m.If(launch):
            m.d.sync += launched.eq(1)
        with m.If(engine.done | host.abort):
            m.d.sync += launched.eq(0)
        m.d.comb += [
            dma.valid.eq(transfers.valid),
            dma.fields.eq(transfers.fields),
            dma.computes_done.eq(computes.head),
            transfers.take.eq(dma.take),
        ]
        for queue, name in ((computes, "compute"), (transfers, "transfer")):
            m.d.comb += [
                queue.write_en.eq(getattr(host, f"{name}_write")),
                queue.write_address.eq(host.slot_address),
                queue.write_data.eq(host.slot_data),
                queue.tail.eq(getattr(host, f"{name}_tail")),
                queue.hold.eq(host.stopped),
                queue.abort.eq(host.abort),
                getattr(host, f"{name}_head").eq(queue.head),
                getattr(host, f"{name}_error").eq(queue.error),
            ]
        m.d.comb += [
            engine.stop.eq(host.abort),
            rpu.abort.eq(host.abort),
            dma.abort.eq(host.abort),
        ]

        # Memories.
        for name in ("weights", "x", "p", "parameters", "residual", "masks"):
            for port, bank in zip(getattr(engine, name), getattr(memories, name), strict=True):
                m.d.comb += [
                    bank.en.eq(port.en),
                    bank.address.eq(port.address),
                    port.data.eq(bank.data),
                ]
        for name in ("y", "sums", "select"):
            for port, bank in zip(getattr(engine, name), getattr(memories, name), strict=True):
                m.d.comb += [
                    bank.en.eq(port.en),
                    bank.address.eq(port.address),
                    bank.data.eq(port.data),
                ]
        m.d.comb += [
            memories.xq[0].en.eq(rpu.xq_en),
            memories.xq[0].address.eq(rpu.xq_address),
            rpu.xq_data.eq(memories.xq[0].data),
            memories.projection[0].en.eq(rpu.matrix_en),
            memories.projection[0].address.eq(rpu.matrix_address),
            rpu.matrix_data.eq(memories.projection[0].data),
            rpu.freed.eq(engine.freed),
            engine.ready.eq(rpu.ready),
            engine.base_slot.eq(rpu.base_slot),
            memories.load_en.eq(dma.load_en),
            memories.load_target.eq(dma.load_target),
            memories.load_address.eq(dma.load_address),
            memories.load_row.eq(dma.load_row),
            memories.store_en.eq(dma.store_en),
            memories.store_target.eq(dma.store_target),
            memories.store_address.eq(dma.store_address),
            dma.store_row.eq(memories.store_row),
        ]
        for t, bank in enumerate(memories.p_write):
            m.d.comb += [
                bank.en.eq(Mux(rpu.p_en[t], rpu.p_mask, 0)),
                bank.address.eq(rpu.p_address),
                bank.data.eq(rpu.p_data),
            ]

        # Streams.
        m.d.comb += [
            dma.i.valid.eq(self.in_valid),
            dma.i.payload.eq(self.in_data),
            self.in_ready.eq(dma.i.ready),
            self.out_valid.eq(dma.o.valid),
            self.out_data.eq(dma.o.payload),
            dma.o.ready.eq(self.out_ready),
        ]

        # Where the cycles go: in a compute by its causes; between them, waiting for transfers.
        waiting = Signal()
        m.d.comb += waiting.eq(~engine.running & (computes.busy | transfers.busy))
        causes = Signal(len(STALL_CAUSES))
        for n, cause in enumerate(STALL_CAUSES):
            m.d.comb += causes[n].eq(waiting if cause == "dma" else engine.waits[cause])
        m.d.comb += [
            counters.clear.eq(host.clear),
            counters.running.eq(engine.running | waiting),
            counters.busy.eq(engine.issue),
            counters.approximate.eq(~engine.step_exact),
            counters.causes.eq(causes),
            counters.loading.eq(dma.loading),
            counters.storing.eq(dma.storing),
            counters.step.eq(engine.step_end),
            self.monitor_running.eq(engine.running),
            self.monitor_issue.eq(engine.issue),
            self.monitor_begin.eq(engine.step_begin),
            self.monitor_end.eq(engine.step_end),
            self.monitor_exact.eq(engine.step_exact),
            self.monitor_done.eq(engine.done),
            self.monitor_transfer.eq(dma.loading | dma.storing),
        ]
        for n in reversed(range(len(STALL_CAUSES))):
            with m.If(causes[n] & ~causes[:n].any()):
                m.d.comb += self.monitor_cause.eq(n)

        # Host.
        m.d.comb += [
            host.valid.eq(self.host_valid),
            host.write.eq(self.host_write),
            host.address.eq(self.host_address),
            host.write_data.eq(self.host_write_data),
            self.host_ready.eq(host.ready),
            self.host_read_valid.eq(host.read_valid),
            self.host_read_data.eq(host.read_data),
            host.counts.eq(counters.counts),
            host.uncounted.eq(counters.fault),
            host.progress.eq(engine.issue | dma.progress | launch | engine.done | rpu.progress),
        ]
        return m
