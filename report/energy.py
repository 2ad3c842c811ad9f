"""Energy of a simulated trace: counted events times a table, and leakage times time.

Energy = sum over events of count * pJ + cycles * (leakage of SRAM + leakage of logic) * clock.
There is no other term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.layer import ceil_div
from ..common.machine import TAP_NIBBLES, Machine
from ..sim.counts import BUFFERS, EVENTS, MEMORIES
from .area import logic_um2
from .logic import (
    ACCUMULATOR_BITS,
    COMBINE_BITS,
    LOGIC_SOURCE,
    PLACE_BITS,
    POSITION_BITS,
    RPU_SUM_BITS,
    levels,
    pair_bits,
    terms_text,
    tree_bits,
    units,
)
from .sram import memory

if TYPE_CHECKING:
    from ..sim import Result

__all__ = ["COMPONENTS", "LEAKAGE", "Energy", "energy", "ert"]

#: Leakage as entries of the table; their count is the cycles.
LEAKAGE = ("sram_leakage.cycle", "logic_leakage.cycle")

#: Parts that energy is broken down by, in the order of tables.
COMPONENTS = tuple(dict.fromkeys(name.split(".")[0] for name in (*EVENTS, *LEAKAGE)))


@dataclass(frozen=True)
class Energy:
    """Energy of one event.

    Parameters
    ----------
    pj : float
        In picojoules.
    formula : str
        How it is made: units of logic, or the macros of a memory.
    source : str
        Citation, or ``assumed: why``.
    assumed : bool
        True if any part of it is assumed.
    """

    pj: float
    formula: str
    source: str
    assumed: bool


def ert(machine: Machine) -> dict[str, Energy]:
    """Return the energy of every event that `machine` can cause, and of a cycle's leakage.

    The names are those of `sim.counts.EVENTS`, and `LEAKAGE`. Events of the other kind of machine
    are not in the table.
    """
    table = {}
    for name in (*MEMORIES, *BUFFERS):
        built = memory(machine, name)
        # What is read stays in a register until the next read; p passes one more, the operand's.
        terms = {"register_bit": built.moved_bits * (2 if name == "p" else 1)}
        table[f"{name}.read"] = Energy(
            pj=built.point.read_pj + _sum(terms),
            formula=f"read of a {built.word_bits}-bit word + {terms_text(terms)}",
            source=f"{built.point.source}; {LOGIC_SOURCE}",
            assumed=True,
        )
        # A write to part of a word costs the macros that hold the part.
        bits = _written(machine).get(name, built.word_bits)
        macros = ceil_div(bits, built.point.port_bits)
        table[f"{name}.write"] = Energy(
            pj=built.point.write_pj * macros / built.point.parallel,
            formula=f"write of {bits} bit of a {built.word_bits}-bit word",
            source=built.point.source,
            assumed=False,
        )
    for event, terms in _logic(machine).items():
        table[event] = Energy(_sum(terms), terms_text(terms), LOGIC_SOURCE, True)
    leakage_mw = sum(memory(machine, name).leakage_mw for name in (*MEMORIES, *BUFFERS))
    table["sram_leakage.cycle"] = Energy(
        leakage_mw * machine.clock_ns,  # mW * ns = pJ
        f"{leakage_mw:.6g} mW of all memories x {machine.clock_ns:g} ns",
        memory(machine, "weights").point.source.split(":")[0],
        False,
    )
    density = units("leakage")["logic"]
    area = logic_um2(machine)
    table["logic_leakage.cycle"] = Energy(
        area * density.value * 1e-3 * machine.clock_ns,  # um2 * uW/um2 = uW
        f"{area:.6g} um2 x {density.value:g} {density.unit} x {machine.clock_ns:g} ns",
        f"assumed: {density.source}",
        True,
    )
    return table


def energy(result: Result, table: Mapping[str, Energy] | None = None) -> pd.DataFrame:
    """Return the energy of every row of ``result.layers``, broken down by component.

    Parameters
    ----------
    result : Result
        What the simulator counted.
    table : mapping, optional
        Energies in place of ``ert(result.machine)``.

    Returns
    -------
    DataFrame
        With the index of ``result.counts`` and the columns ``energy_<component>_pj`` for each of
        `COMPONENTS`, and ``energy_pj``, their sum.

    Raises
    ------
    KeyError
        If a counted event has no energy in the table.
    """
    table = ert(result.machine) if table is None else table
    counts = result.counts.assign(**{name: result.layers["cycles"].to_numpy() for name in LEAKAGE})
    events = [name for name in counts.columns if counts[name].any()]
    unknown = [name for name in events if name not in table]
    if unknown:
        raise KeyError(
            f"No energy given for counted event(s) {', '.join(unknown)} of machine"
            f" {result.machine.name}"
        )
    spent = {name: np.zeros(len(counts)) for name in COMPONENTS}
    for name in events:
        spent[name.split(".")[0]] += counts[name].to_numpy() * table[name].pj
    parts = pd.DataFrame(
        {f"energy_{name}_pj": values for name, values in spent.items()}, index=counts.index
    )
    return parts.assign(energy_pj=parts.sum(axis=1))


def _sum(terms: Mapping[str, float]) -> float:
    unit = units("energy_pj")
    return sum(count * unit[name].value for name, count in terms.items())


def _written(m: Machine) -> dict[str, int]:
    """Bits of the memories that are written in parts, where a part may be fewer macros."""
    return {
        "p": 4 * m.rpu.rows,
        "gather": 4 * m.rpu.word,
        "tap": 4 * min(m.rpu.rows, TAP_NIBBLES, 16 * m.pses),
    }


def _logic(m: Machine) -> dict[str, Mapping[str, float]]:
    """Event to the unit actions it is made of."""
    word = 16 * m.pses
    tree_top = m.pses.bit_length() - 1  # bits that the sum of a VPU is wider than that of a PSE
    common = {
        # Sixteen 4x4 products and the additions and mode multiplexers that join them; registers
        # behind products and sum; a share of the adder tree and its register.
        "mvu.mac16": {
            "multiply_bit2": 16 * 16,
            "add_bit": COMBINE_BITS + tree_bits(m.pses, 32) / m.pses,
            "mux2_bit": COMBINE_BITS,
            "register_bit": 16 * 8 + 32 + (32 + tree_top) / m.pses,
        },
        # One of sixteen 4x4 products and its share of the plain sum, of the same multiplexers,
        # registers and tree.
        "mvu.mac4": {
            "multiply_bit2": 4 * 4,
            "add_bit": (tree_bits(16, 8) + tree_bits(m.pses, 12) / m.pses) / 16,
            "mux2_bit": COMBINE_BITS / 16,
            "register_bit": 8 + (12 + (12 + tree_top) / m.pses) / 16,
        },
        "accumulator.update": {
            "add_bit": ACCUMULATOR_BITS,
            "mux2_bit": ACCUMULATOR_BITS * levels(m.accumulators),
            "register_bit": ACCUMULATOR_BITS,
        },
        # Negation and gating of a 5-bit x^Q, an adder of the tree, and a share of the row's sum and
        # its register, a third of whose elements are nonzero.
        "rpu.add": {
            "add_bit": (tree_bits(m.rpu.elements, 5) + 3 * RPU_SUM_BITS) / m.rpu.elements,
            "mux2_bit": 2 * 5,
            "register_bit": 3 * RPU_SUM_BITS / m.rpu.elements,
        },
        # Bias, 48 x 16 multiplication, rounding and a shift of six levels over 64 bit, saturation;
        # S: one of 4 sets of 8 times 128 parameter bits, registered.
        "post.requantise": {
            "multiply_bit2": 48 * 16,
            "add_bit": 48 + 64,
            "mux2_bit": 6 * 64 + 16 + (0 if m.unstructured else 5 * 128),
            "register_bit": 48 + 64 + 16 + (0 if m.unstructured else 128),
        },
        # Residual, 16 x 16 multiplication, rounding and shift over 32 bit, offset, ReLU.
        "post.merge": {
            "multiply_bit2": 16 * 16,
            "add_bit": 16 + 32 + 16,
            "mux2_bit": 6 * 32 + 3 * 16,
            "register_bit": 16 + 32 + 16,
        },
        # Rounding and shift over 16 bit, clamping.
        "post.quantise": {"add_bit": 16, "mux2_bit": 6 * 16 + 16, "register_bit": 4},
    }
    if m.unstructured:
        return common | {
            # The comparator, and the bits of the window gathered so far.
            "select.compare": {"add_bit": 17, "register_bit": m.window},
            # The lowest bit of 64 that is left, and which are left.
            "select.scan": {"mux2_bit": 6 * 64, "register_bit": 64},
            "pairs.write": {"register_bit": pair_bits(m)},
            "pairs.read": {"mux2_bit": pair_bits(m) * levels(2 * m.accumulators)},
            "row_register.write": {"register_bit": word},
            # The pixel's position, one of 4 R, and the address made of it.
            "window.write": {
                "register_bit": word,
                "mux2_bit": POSITION_BITS * levels(4 * m.accumulators),
                "add_bit": 2 * POSITION_BITS,
            },
            # The 2W:1 multiplexer of both halves and the lane's operand register.
            "window.read": {"mux2_bit": word * levels(2 * m.window), "register_bit": word},
        }
    return common | {
        # Seven comparators of 16 bit and that of theta, a count of seven bits and seven ranks that
        # move by one; the slot's eight values and places, of which one and eight are written.
        "select.rank": {
            "add_bit": 7 * 16 + 17 + 7 + 7 * 3,
            "mux2_bit": 8 * (16 + PLACE_BITS) * levels(m.collector),
            "register_bit": 16 + 8 * PLACE_BITS,
        },
        "group_buffer.write": {"register_bit": word},
        # The 8:1 multiplexer and the VPU's operand register.
        "group_buffer.read": {"mux2_bit": 3 * word, "register_bit": word},
        # A word drives the inputs of T multiplexers, passes one of log2 T levels, and is registered
        # while its batch waits and again as the operand.
        "crossbar.word": {
            "mux2_bit": word * ((m.columns if m.columns > 1 else 0) + levels(m.columns)),
            "register_bit": 2 * word,
        },
    }
