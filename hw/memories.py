"""The SRAMs of the machine, and who reads and writes each of them."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.descriptor import Target, memory_depth, target_memory
from ..common.machine import Machine
from .engine import banks
from .ports import read_port, write_port
from .share import shared
from .sram import Sram

__all__ = ["Memories"]

#: What the compute engine and the projection unit read, and what they write.
_READ = ("weights", "x", "p", "parameters", "residual", "masks", "xq", "projection")
_WRITTEN = ("y", "p", "masks")


class Memories(wiring.Component):
    """All banks. Each has one port to read and one to write, and at any time one user of either:
    :data:`sinai.hw.memory_map.RAMS` says who.

    Parameters
    ----------
    machine : Machine
    p_granularity : int
        Bits of p that are written alone.

    Members
    -------
    weights, x, p, parameters, residual, masks, xq, projection : read ports of the banks
    y, sums, select, p_write : write ports of the banks
    load_en, load_target, load_address, load_row : ``In``
        A row to write, as :class:`Dma` gives it.
    store_en, store_target, store_address : ``In``, store_row : ``Out``
        A row to read; it is there in the next cycle.
    """

    def __init__(self, machine: Machine, p_granularity: int, load_bits: int, store_bits: int):
        self.machine, self.p_granularity = machine, p_granularity
        self.shapes = banks(machine)
        deepest = max(memory_depth(machine, target_memory(target)) for target in Target)

        def reads(name: str):
            count, width = self.shapes[name]
            return In(read_port(width, memory_depth(machine, name))).array(count)

        def writes(name: str, enables: int = 1):
            count, width = self.shapes[name]
            return In(write_port(width, memory_depth(machine, name), enables)).array(count)

        chunks = 64 // machine.window if machine.unstructured else 1
        self.mask_granularity = machine.window if machine.unstructured else 8 * machine.vpus
        super().__init__(
            {
                **{name: reads(name) for name in _READ},
                "y": writes("y"),
                "sums": writes("residual"),
                "select": writes("masks", chunks),
                "p_write": writes("p", self.shapes["p"][1] // p_granularity),
                "load_en": In(1),
                "load_target": In(4),
                "load_address": In(ceil_log2(deepest)),
                "load_row": In(load_bits),
                "store_en": In(1),
                "store_target": In(4),
                "store_address": In(ceil_log2(deepest)),
                "store_row": Out(store_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        granularity = {"p": self.p_granularity, "masks": self.mask_granularity}
        cells: dict[str, list[Sram]] = {}
        for name, (count, width) in (self.shapes | {"sums": self.shapes["residual"]}).items():
            depth = memory_depth(self.machine, "residual" if name == "sums" else name)
            cells[name] = [
                Sram(width, depth, granularity=granularity.get(name)) for _ in range(count)
            ]
            for n, cell in enumerate(cells[name]):
                m.submodules[f"{name}_{n}"] = shared(cell, platform)

        for name in _READ:
            for cell, port in zip(cells[name], getattr(self, name), strict=True):
                m.d.comb += [
                    cell.read_en.eq(port.en),
                    cell.read_address.eq(port.address),
                    port.data.eq(cell.read_data),
                ]
        for name, ports in (
            ("y", self.y),
            ("sums", self.sums),
            ("masks", self.select),
            ("p", self.p_write),
        ):
            for cell, port in zip(cells[name], ports, strict=True):
                m.d.comb += [
                    cell.write_en.eq(port.en),
                    cell.write_address.eq(port.address),
                    cell.write_data.eq(port.data),
                ]

        # LOAD writes all banks of a row.
        for target in (t for t in Target if t < Target.STORE_Y):
            name = target_memory(target)
            here = Signal(name=f"load_{name}")
            m.d.comb += here.eq(self.load_en & (self.load_target == target.value))
            for n, cell in enumerate(cells[name]):
                word = self.load_row[n * cell.width : (n + 1) * cell.width]
                with m.If(here):
                    m.d.comb += [
                        cell.write_en.eq(~0),
                        cell.write_address.eq(self.load_address),
                        cell.write_data.eq(word),
                    ]

        # STORE reads them.
        stored = {
            Target.STORE_Y: "y",
            Target.STORE_YQ: "y",
            Target.STORE_SUM: "sums",
            Target.STORE_MASKS: "masks",
        }
        for name in dict.fromkeys(stored.values()):
            mine = [target for target, memory in stored.items() if memory == name]
            here = Signal(name=f"store_{name}")
            m.d.comb += here.eq(
                self.store_en & Cat(self.store_target == target.value for target in mine).any()
            )
            for cell in cells[name]:
                with m.If(here):
                    m.d.comb += [
                        cell.read_en.eq(1),
                        cell.read_address.eq(self.store_address),
                    ]
        row = Cat(cell.read_data for cell in cells["y"])
        for target in (Target.STORE_SUM, Target.STORE_MASKS):
            other = Cat(cell.read_data for cell in cells[stored[target]])
            row = Mux(self.store_target == target.value, other, row)
        m.d.comb += self.store_row.eq(row)
        return m
