"""Area of a machine: cells counted by formula times assumed cell areas, macros from CACTI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..common.machine import Machine
from ..sim.counts import BUFFERS, MEMORIES
from .logic import (
    ACCUMULATOR_BITS,
    COMBINE_BITS,
    LOGIC_SOURCE,
    PLACE_BITS,
    POSITION_BITS,
    RPU_SUM_BITS,
    pair_bits,
    terms_text,
    tree_bits,
    units,
)
from .sram import PORTS, memory

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
    for name in (*MEMORIES, *BUFFERS):
        built = memory(machine, name)
        table[name] = Area(
            um2=built.area_mm2 * 1e6,
            instances=built.macros,
            formula=f"{built.point.size_kib} KiB x {built.point.port_bits} bit {PORTS}",
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
        # 16 multiplier, round and shift over 32 bit, offset; y^Q on its way out.
        "post": (
            vpus,
            {
                "gate": _MULTIPLY_48_16["gate"] + _MULTIPLY_16["gate"],
                "full_adder": _MULTIPLY_48_16["full_adder"]
                + _MULTIPLY_16["full_adder"]
                + (48 + 64)
                + (16 + 32 + 16 + 16),
                "mux2": (6 * 64 + 16) + (6 * 32 + 3 * 16) + (6 * 16 + 16),
                "register": (48 + 64 + 16) + (16 + 32 + 16 + 4),
            },
        ),
        # An element: two 2-bit codes (one in use, one loading), negation and gating of 5 bit, a
        # share of the tree; a row: its sum before and after the shift, multiplexer and adders.
        "rpu": (
            rpu_elements,
            {
                "register": 2 * 2 + 2 * RPU_SUM_BITS / m.rpu.elements,
                "mux2": 2 + 2 * 5 + 6 * RPU_SUM_BITS / m.rpu.elements,
                "full_adder": (tree_bits(m.rpu.elements, 5) + 2 * RPU_SUM_BITS) / m.rpu.elements,
            },
        ),
        # A bank of each memory keeps what it read last: a register, and the multiplexer that passes
        # it by. More weight words a cycle are more banks.
        "bank_output": (
            sum(memory(m, name).banks for name in MEMORIES),
            {kind: _bank_bits(m) for kind in ("register", "mux2")},
        ),
        # p of the pixels that issue.
        "operand_register": (m.columns, {"register": m.word_bits("p")}),
    }
    if m.unstructured:
        return common | {
            # Comparator of 17 bit and a window's bits; bits of a mask word that are left, and the
            # first of them in six levels.
            "select": (m.lanes, {"full_adder": 17, "register": m.window + 64, "mux2": 6 * 64}),
            # Two lists of R pairs, one filling.
            "pairs": (
                m.lanes,
                {
                    "register": 2 * m.accumulators * pair_bits(m),
                    "mux2": (2 * m.accumulators - 1) * pair_bits(m),
                },
            ),
            # Two halves of the four words of a row-beat, and the operand; an exact word passes by.
            "row_register": (m.lanes, {"register": (2 + 1) * 4 * word, "mux2": 4 * word + word}),
            # W words twice (one half in use, one filling); a 2W:1 multiplexer and an operand
            # register for each lane.
            "window": (
                1,
                {
                    "register": 2 * m.window * word + m.lanes * word,
                    "mux2": m.lanes * (2 * m.window - 1) * word,
                },
            ),
            # Positions of the pixels of two tiles and more, and the address of one.
            "pixel_table": (
                1,
                {
                    "register": 4 * m.accumulators * POSITION_BITS,
                    "mux2": (4 * m.accumulators - 1) * POSITION_BITS,
                    "full_adder": 2 * POSITION_BITS,
                },
            ),
        }
    return common | {
        # Of a VPU: Z slots of eight values and places, seven comparators of 16 bit and that of
        # theta, a count of seven bits, seven ranks that move by one.
        "select": (
            vpus,
            {
                "register": m.collector * 8 * (16 + PLACE_BITS),
                "mux2": (m.collector - 1) * 8 * (16 + PLACE_BITS),
                "full_adder": 7 * 16 + 17 + 7 + 7 * 3,
            },
        ),
        # A lane: two halves of eight words, of which one is chosen, and three words of a row-beat
        # for all; a VPU: 8:1 multiplexer and operand register.
        "group_buffer": (
            m.lanes,
            {
                "register": 16 * word + 3 * word + m.columns * word,
                "mux2": 8 * word + 3 * word + m.columns * 7 * word,
            },
        ),
        # A lane: four sets of eight parameters, of which one is chosen; a VPU: 8:1 multiplexer and
        # register.
        "parameter_register": (
            m.lanes,
            {
                "register": 4 * 8 * 128 + m.columns * 128,
                "mux2": 3 * 8 * 128 + m.columns * 7 * 128,
            },
        ),
        # T words of T inputs, each with the register of a word that waits and the operand.
        "crossbar": (m.columns, {"mux2": (m.columns - 1) * word + word, "register": 2 * word}),
    }


def _bank_bits(m: Machine) -> float:
    """Bits that a bank keeps, mean over all banks of all memories."""
    built = [memory(m, name) for name in MEMORIES]
    return sum(each.banks * each.moved_bits for each in built) / sum(each.banks for each in built)
