"""Unit energies and areas of logic, all assumed, and the structural counts they multiply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from ..common.descriptor import MAX_CHANNELS
from ..common.layer import ceil_div
from ..common.machine import Machine

__all__ = [
    "ACCUMULATOR_BITS",
    "COMBINE_BITS",
    "LOGIC_SOURCE",
    "PLACE_BITS",
    "POSITION_BITS",
    "RPU_SUM_BITS",
    "Unit",
    "levels",
    "pair_bits",
    "terms_text",
    "tree_bits",
    "units",
]

#: Adder bits that join sixteen 4x4 products to a 16x16 one: 3 additions of 12 bit give an 8x8
#: product of four, 3 of 24 bit the 16x16 product of four of those: 4 * 3 * 12 + 3 * 24.
COMBINE_BITS = 4 * 3 * 12 + 3 * 24

#: Width of an accumulator, of a sum of the projection unit (15 * 32767 < 2**19, signed), in bits.
ACCUMULATOR_BITS = 48
RPU_SUM_BITS = 20

#: Of a value being ranked: how many of its group are before it, and whether it may be essential.
PLACE_BITS = 3 + 1

#: Of an output pixel: its column, and row, column and number of the input pixel at its first tap.
POSITION_BITS = 11 + 14 + 14 + 23

#: Source of every entry made of the units below.
LOGIC_SOURCE = "assumed: units of data/logic45_assumed.yaml (Horowitz, ISSCC 2014, scaled per bit)"


@dataclass(frozen=True)
class Unit:
    """A unit value: pJ a bit, um2 a cell, or uW/um2; `source` says where it comes from."""

    value: float
    unit: str
    source: str
    rule: str
    assumed: bool


@cache
def units(section: str) -> Mapping[str, Unit]:
    """Return the units of `energy_pj`, `area_um2` or `leakage`, by name."""
    text = (resources.files(__package__) / "data" / "logic45_assumed.yaml").read_text("utf-8")
    return {name: Unit(**entry) for name, entry in yaml.safe_load(text)[section].items()}


def pair_bits(machine: Machine) -> int:
    """Bits of an essential pair: the row of a lane, and the pixel of the window."""
    return levels(ceil_div(MAX_CHANNELS, machine.lanes)) + levels(machine.window)


def levels(inputs: int) -> int:
    """Levels of 2:1 multiplexers in a multiplexer of `inputs`: ceil(log2(inputs))."""
    return (inputs - 1).bit_length()


def tree_bits(leaves: int, bits: int) -> int:
    """Adder bits of a tree that sums `leaves` numbers of `bits` bit, one bit more a level."""
    total = 0
    while leaves > 1:
        total += leaves // 2 * bits
        leaves, bits = leaves - leaves // 2, bits + 1
    return total


def terms_text(terms: Mapping[str, float]) -> str:
    """A sum of units as text: ``{"add_bit": 17, "register_bit": 1}`` is
    ``17 add_bit + 1 register_bit``."""
    return " + ".join(f"{count:.6g} {unit}" for unit, count in terms.items() if count)
