"""SRAM of the machine: CACTI macros, looked up, and memories built of them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ..common.descriptor import memory_row_bits
from ..common.errors import InputError
from ..common.layer import ceil_div
from ..common.machine import TAP_NIBBLES, TAP_PIXELS, Machine
from ..sim.counts import BUFFERS, MEMORIES
from .logic import RPU_SUM_BITS

__all__ = ["PORTS", "Sram", "SramPoint", "banks", "check_clock", "memory", "sram"]

#: Every memory has a read and a write port: transfers fill and empty it while the machine computes,
#: and p, masks, the sums and the gather buffer are written by one unit while another reads them.
PORTS = "1r1w"

#: Largest macro of a buffer of the projection unit, in KiB.
_BUFFER_KIB = 32

#: Bits of y and residual that an access moves.
_VALUE = 16

_WIDTHS = (64, 128, 256, 512)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class SramPoint:
    """One or more equal macros side by side, active together; a word is as wide as all of them.

    Parameters
    ----------
    size_kib, port_bits, parallel : int
        Size and port of one macro, and how many stand side by side.
    read_pj, write_pj : float
        Energy of an access of all of them.
    leakage_mw : float
        Leakage of all of them, gate leakage included.
    area_mm2 : float
        Area of all of them.
    access_ns, cycle_ns : float
        Access time and cycle time.
    source : str
        Row of the table, and the rule that led to it.
    """

    size_kib: int
    port_bits: int
    parallel: int
    read_pj: float
    write_pj: float
    leakage_mw: float
    area_mm2: float
    access_ns: float
    cycle_ns: float
    source: str


@dataclass(frozen=True)
class Sram:
    """A memory of the machine: `banks`, each of `rows` rows of macros, of which one row is active
    in an access of the bank. `moved_bits` of a word are of use.
    """

    name: str
    word_bits: int
    moved_bits: int
    banks: int
    rows: int
    point: SramPoint

    @property
    def macros(self) -> int:
        return self.banks * self.rows * self.point.parallel

    @property
    def leakage_mw(self) -> float:
        """All macros leak all the time; none is switched off."""
        return self.banks * self.rows * self.point.leakage_mw

    @property
    def area_mm2(self) -> float:
        return self.banks * self.rows * self.point.area_mm2


@cache
def sram(size_kib: int, port_bits: int, ports: str, device: str, temperature_k: int) -> SramPoint:
    """Return the macros that give a word of `port_bits` from macros of `size_kib`.

    A word wider than 512 bit takes macros of 512 bit side by side; another one takes the next
    wider port of the table. A size that the table lacks at that width (1 KiB at 512 bit) becomes
    the next larger one. At 350 K the table has no 1r1w rows: their leakage is that of 300 K times
    the ratio of the 1rw rows, all else is that of 300 K.

    Parameters
    ----------
    size_kib : int
        1, 2, 4, ... 256.
    port_bits : int
        Width of a word, at least 1.
    ports : {"1rw", "1r1w"}
        One read-write port, or one read and one write port.
    device : str
        As in `common.machine.Memories`: cell type, with ``-hp`` behind for fast periphery.
    temperature_k : int
        300 or 350.

    Raises
    ------
    InputError
        If the table has no such macro.
    """
    parallel = ceil_div(port_bits, _WIDTHS[-1])
    width = next(width for width in _WIDTHS if width * parallel >= port_bits)
    cell, periphery = _device_types(device)
    for size in (size for size in _SIZES if size >= size_kib):
        row = _table().get((size, width, ports, cell, periphery, temperature_k))
        note, factor = "", 1.0
        if row is None and temperature_k == 350 and ports == "1r1w":
            row = _table().get((size, width, "1r1w", cell, periphery, 300))
            hot, cold = (
                _table().get((size, width, "1rw", cell, periphery, kelvin)) for kelvin in (350, 300)
            )
            if row is None or hot is None or cold is None:
                break
            factor = hot["leakage_mw"] / cold["leakage_mw"]
            note = f", subthreshold leakage of 300 K x {factor:.3g} as the 1rw rows"
        if row is None:
            continue
        leakage = row["leakage_mw"] * factor + row["gate_leakage_mw"]
        return SramPoint(
            size_kib=size,
            port_bits=width,
            parallel=parallel,
            read_pj=parallel * row["read_energy_nj"] * 1e3,
            write_pj=parallel * row["write_energy_nj"] * 1e3,
            leakage_mw=parallel * leakage,
            area_mm2=parallel * row["area_mm2"],
            access_ns=row["access_time_ns"],
            cycle_ns=row["cycle_time_ns"],
            source=(
                f"CACTI 7, 45 nm, {cell} cells, {periphery} periphery, {temperature_k} K:"
                f" {parallel} x {size} KiB x {width} bit {ports}{note}"
            ),
        )
    raise InputError(
        f"data/cacti45.csv: no macro of {size_kib} KiB, {ports}, device {device} at"
        f" {temperature_k} K; sizes are {', '.join(map(str, _SIZES))} KiB, and 350 K exists for"
        " itrs-hp and itrs-lstp"
    )


def banks(machine: Machine, name: str) -> int:
    """Banks of memory `name`, each with an address of its own: those of a row. The residual has as
    many for the sums to keep as for the sums to add."""
    bits = memory_row_bits(machine, name)
    if name in ("y", "residual"):
        return bits // _VALUE * (2 if name == "residual" else 1)
    return bits // machine.word_bits(name)


def memory(machine: Machine, name: str) -> Sram:
    """Return memory `name` (of `sim.counts.MEMORIES` or `BUFFERS`) of `machine`.

    Each bank is rows of macros that hold its share of the capacity. A buffer of the projection unit
    is one bank of the smallest macros that are as deep as it, of 32 KiB at most.
    """
    memories = machine.memories
    if name in BUFFERS:
        bits, depth = _buffer(machine, name)
        width = next(width for width in _WIDTHS if width * ceil_div(bits, _WIDTHS[-1]) >= bits)
        need = ceil_div(depth * width, 8192)
        size = next(size for size in _SIZES if size >= need or size == _BUFFER_KIB)
        point = sram(size, bits, PORTS, memories.device, memories.temperature_k)
        return Sram(name, bits, bits, 1, ceil_div(need, point.size_kib), point)
    shape, bits = getattr(memories, name), machine.word_bits(name)
    point = sram(shape.macro_kib, bits, PORTS, memories.device, memories.temperature_k)
    count = banks(machine, name)
    rows = ceil_div(shape.capacity_kib, count * point.size_kib * point.parallel)
    moved = _VALUE if name in ("y", "residual") else bits
    return Sram(name, bits, moved, count, rows, point)


def _buffer(machine: Machine, name: str) -> tuple[int, int]:
    """Bits of a word, and words, of a buffer of the projection unit."""
    rpu = machine.rpu
    return {
        "gather": (4 * rpu.elements, 2 * rpu.hold),
        "sums": (RPU_SUM_BITS * rpu.rows, max(2, rpu.hold * rpu.depth // rpu.rows)),
        "tap": (4 * min(TAP_NIBBLES, 16 * machine.pses), TAP_PIXELS),
    }[name]


def check_clock(machine: Machine) -> None:
    """Refuse a clock that is faster than the access or cycle time of a memory.

    Raises
    ------
    InputError
        With the memory, its times and what would do.
    """
    for name in (*MEMORIES, *BUFFERS):
        point = memory(machine, name).point
        slowest = max(point.access_ns, point.cycle_ns)
        if machine.clock_ns < slowest:
            raise InputError(
                f"machine {machine.name}: clock_ns must be at least {slowest:.3f}, the access or"
                f" cycle time of the {name} memory ({point.source}), not {machine.clock_ns};"
                " lengthen it, or choose smaller macros or a faster device"
            )


def _device_types(device: str) -> tuple[str, str]:
    """Cell and periphery type of ``itrs-lop`` or ``itrs-lop-hp``."""
    fast = device.count("-") == 2
    cell = device.rsplit("-", 1)[0] if fast else device
    return cell, "itrs-hp" if fast else cell


@cache
def _table() -> dict[tuple[int, int, str, str, str, int], dict[str, float]]:
    text = (resources.files(__package__) / "data" / "cacti45.csv").read_text(encoding="ascii")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    keys = ("size_kib", "port_bits", "ports", "cell_type", "periph_type", "temp_k")
    return {
        (
            int(row["size_kib"]),
            int(row["port_bits"]),
            row["ports"],
            row["cell_type"],
            row["periph_type"],
            int(row["temp_k"]),
        ): {name: float(value) for name, value in row.items() if name not in keys}
        for row in rows
    }
