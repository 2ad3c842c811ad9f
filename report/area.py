"""Area of a machine: cells counted by formula times assumed cell areas, macros from CACTI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..common.layer import ceil_div
from ..common.machine import Machine
from ..sim.counts import MEMORIES
from .logic import (
    ACCUMULATOR_BITS,
    COMBINE_BITS,
    LOGIC_SOURCE,
    RPU_SUM_BITS,
    terms_text,
    tree_bits,
    units,
)
from .sram import memory

__all__ = ["Area", "area_mm2", "art", "logic_um2"]

#: A multiplier of a x b bit has a * b AND gates and (a - 1) * b full adders.
_MULTIPLY_4 = {"gate": 4 * 4, "full_adder": 3 * 4}
_MULTIPLY_16 = {"gate": 16 * 16, "full_adder": 15 * 16}
_MULTIPLY_48_16 = {"gate": 48 * 16, "full_adder": 47 * 16}


@dataclass(frozen=True)
class Area:
    """Area of a component.

    Parameters
    ----------
    um2 : float
        All instances together.
    instances : int
        How many there are: PSEs, VPUs, lanes, macros.
    formula : str
        Cells or macros of one instance.
    source : str
        Citation, or ``assumed: why``.
    assumed : bool
        True for everything that is not in the CACTI table.
    """

    um2: float
    instances: int
    formula: str
    source: str
    assumed: bool


def art(machine: Machine) -> dict[str, Area]:
    """Return the area of every component of `machine`: units of logic, then memories.

    Control (registers, sequencer, addresses) and wires are not in the table.
    """
    table = {}
    cell = units("area_um2")
    for name, (instances, cells) in _logic(machine).items():
        table[name] = Area(
            um2=instances * sum(count * cell[kind].value for kind, count in cells.items()),
            instances=instances,
            formula=terms_text(cells),
            source=LOGIC_SOURCE,
            assumed=True,
        )
    for name in MEMORIES:
        built = memory(machine, name)
        table[name] = Area(
            um2=built.area_mm2 * 1e6,
            instances=built.macros,
            formula=f"{built.point.size_kib} KiB x {built.point.port_bits} bit {built.ports}",
            source=built.point.source,
            assumed=False,
        )
    return table


def logic_um2(machine: Machine) -> float:
    """Area of everything but the memories, in um2."""
    return sum(area.um2 for area in art(machine).values() if area.assumed)


def area_mm2(machine: Machine) -> float:
    """Area of the whole machine, in mm2."""
    return sum(area.um2 for area in art(machine).values()) / 1e6


def _logic(m: Machine) -> dict[str, tuple[int, Mapping[str, float]]]:
    """Component to (instances, cells of one instance)."""
    word = 16 * m.pses
    vpus = m.vpus
    rpu_elements = m.rpu.rows * m.rpu.elements
    common = {
        # Sixteen 4x4 multipliers, the combining adders with their mode multiplexers, registers
        # behind products and sum, a share of the adder tree and its register.
        "mvu": (
            m.pses * vpus,
            {
                "gate": 16 * _MULTIPLY_4["gate"],
                "full_adder": 16 * _MULTIPLY_4["full_adder"]
                + COMBINE_BITS
                + tree_bits(m.pses, 32) / m.pses,
                "mux2": COMBINE_BITS,
                "register": 16 * 8 + 32 + (32 + m.pses.bit_length() - 1) / m.pses,
            },
        ),
        # R registers, an R:1 multiplexer, the adder.
        "accumulator": (
            vpus,
            {
                "register": m.accumulators * ACCUMULATOR_BITS,
                "mux2": (m.accumulators - 1) * ACCUMULATOR_BITS,
                "full_adder": ACCUMULATOR_BITS,
            },
        ),
        # Requantise: bias, 48 x 16 multiplier, round and shift over 64 bit. Merge: residual, 16 x
        # 16 multiplier, round and shift over 32 bit, offset, y^Q. S: the 8:1 parameter multiplexer.
        "post": (
            vpus,
            {
                "gate": _MULTIPLY_48_16["gate"] + _MULTIPLY_16["gate"],
                "full_adder": _MULTIPLY_48_16["full_adder"]
                + _MULTIPLY_16["full_adder"]
                + (48 + 64)
                + (16 + 32 + 16 + 16),
                "mux2": (6 * 64 + 16)
                + (6 * 32 + 6 * 16 + 4 * 16)
                + (0 if m.unstructured else 7 * 128),
                "register": (48 + 64 + 16) + (16 + 32 + 16 + 4),
            },
        ),
        # An element: two 2-bit codes (one in use, one loading), negation and gating of 5 bit, a
        # share of the tree; a row: `hold` sums with their multiplexer and adder.
        "rpu": (
            rpu_elements,
            {
                "register": 2 * 2 + m.rpu.hold * RPU_SUM_BITS / m.rpu.elements,
                "mux2": 2 * 5 + (m.rpu.hold - 1) * RPU_SUM_BITS / m.rpu.elements,
                "full_adder": (tree_bits(m.rpu.elements, 5) + RPU_SUM_BITS) / m.rpu.elements,
            },
        ),
        # Registers behind the memories that feed the projection unit and the VPUs.
        "operand_register": (
            1,
            {
                "register": m.word_bits("xq") + m.columns * m.word_bits("p"),
            },
        ),
    }
    if m.unstructured:
        return common | {
            # Comparator of 17 bit, two 64-bit mask words, leading one in six levels.
            "select": (m.lanes, {"full_adder": 17, "register": 1 + 2 * 64, "mux2": 6 * 64}),
            # The row in use and the next one.
            "row_register": (m.lanes, {"register": 2 * word}),
            # W words twice (one window in use, one filling); a W:1 multiplexer and an operand
            # register for each lane.
            "window": (
                1,
                {
                    "register": 2 * m.window * word + m.lanes * word,
                    "mux2": m.lanes * (m.window - 1) * word,
                },
            ),
            "fifo": (m.lanes, {"register": m.accumulators * 16, "mux2": (m.accumulators - 1) * 16}),
        }
    return common | {
        # 28 comparators of 16 bit, eight counts of seven bits, eight 3-bit indices sorted.
        "select": (
            ceil_div(vpus, 8),
            {"full_adder": 28 * 16 + 8 * 4, "mux2": 8 * 8 * 3, "register": 8 * 3},
        ),
        # Z pixels of eight int16.
        "collector": (vpus, {"register": m.collector * 8 * 16, "mux2": (m.collector - 1) * 8 * 16}),
        # A lane: two halves of eight words, eight sets of parameters; a VPU: 8:1 multiplexer and
        # operand register.
        "group_buffer": (
            m.lanes,
            {
                "register": 16 * word + 8 * 128 + m.columns * word,
                "mux2": m.columns * 7 * word,
            },
        ),
        # T words of T inputs, each with an operand register.
        "crossbar": (m.columns, {"mux2": (m.columns - 1) * word, "register": word}),
    }
