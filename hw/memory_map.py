"""The memories: how wide and deep each is, and where in it a value lies.

One table for the documents. Formulas are Python expressions, // is division without remainder and
% its remainder; :func:`sizes` gives their names. The tests hold sizes to the SRAMs of the emitted
Verilog, and places to the memory images of :mod:`sinai.common.layout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..common.descriptor import compute_fields, slot_words, transfer_fields
from ..common.machine import TAP_NIBBLES, TAP_PIXELS, Machine
from .post import PARAMETERS
from .projection_sums import SUM_BITS
from .registers import COMPUTE_SLOTS, TRANSFER_SLOTS

__all__ = ["INDICES", "PLACES", "RAMS", "SIZES", "Place", "Ram", "evaluate", "shape", "sizes"]

Kind = Literal["structured", "unstructured"]

#: Names of the machine's sizes in formulas.
SIZES = {
    "V": "`lanes` of the machine",
    "T": "`columns`",
    "w": "`pses`",
    "beta": "`weight_words`",
    "W": "`window`",
    "rows": "`rpu.rows`",
    "elements": "`rpu.elements`",
    "longest": "`rpu.depth`",
    "hold": "`rpu.hold`",
    "port": "`rpu.port_bits`",
    "Q": "nibbles of an x^Q word: `rpu.elements`, at most 64",
    "load": "rows of a tile of P: `2 * rows * elements // port`",
    "transfer_words": "words from a TRANSFER descriptor to the next",
    "compute_words": "words from a COMPUTE descriptor to the next",
}

#: Names of what is looked for.
INDICES = {
    "c": "channel of the part",
    "n": "output pixel of the part; of x and x^Q row * w_in + column in the memory",
    "b": "beat: of W tap by tap, each word by word; of W~ 16 w nibbles of k",
    "u": "word of a pixel",
    "e": "element of the word, of the beat, or of the row of P, whose words go as beats do",
    "r": "row of P",
    "i": "tile of the part",
    "m": "pixel of the tile",
    "s": "first batch of the tile",
    "d": "batches of the tile",
}


@dataclass(frozen=True)
class Ram:
    """A memory: `banks` of words of `width` bits, of which `enable` are written alone.

    `depth` is words of a bank; None: as many as `capacity_kib` of the machine's `memory` gives, at
    least 2, and half of that for either half of the residual memory. `kind` is that of the machines
    that have it so, None for both.
    """

    name: str
    memory: str | None
    banks: str
    width: str
    holds: str
    writer: str
    reader: str
    depth: str | None = None
    enable: str = "width"
    kind: Kind | None = None


_ENGINE, _UNIT, _S, _U = "compute engine", "projection unit", "structured", "unstructured"
_WRITER, _READER = f"{_ENGINE}, or LOAD before it", f"{_ENGINE}, or STORE after it"
_NEURONS = "essential neurons"

RAMS = (
    Ram("weights", "weights", "V * beta", "16 * w", "W and W~", "LOAD", _ENGINE),
    Ram("x", "x", "T", "16 * w", "x", "LOAD", _ENGINE),
    Ram("y", "y", "V * T", "16", "y", _ENGINE, "STORE"),
    Ram("residual", "residual", "V * T", "16", "residual to add", "LOAD", _ENGINE),
    Ram("sums", "residual", "V * T", "16", "sums to keep", _ENGINE, "STORE"),
    Ram("xq", "xq", "1", "4 * Q", "x^Q", "LOAD", _UNIT),
    Ram("p", "p", "T", "64 * w", "p, a ring of batches", _UNIT, _ENGINE, enable="4 * rows"),
    Ram("projection", "projection", "1", "port", "P", "LOAD", _UNIT),
    Ram("parameters", "parameters", "V * beta", "128", "parameters", "LOAD", _ENGINE),
    Ram("masks", "masks", "V", "64", _NEURONS, _WRITER, _READER, enable="W", kind=_U),
    Ram("masks", "masks", "1", "8 * V * T", _NEURONS, _WRITER, _READER, kind=_S),
    Ram(
        "transfer queue",
        None,
        "1",
        "32",
        "descriptors",
        "host port",
        "queue",
        depth=f"{TRANSFER_SLOTS} * transfer_words",
    ),
    Ram(
        "compute queue",
        None,
        "1",
        "32",
        "descriptors",
        "host port",
        "queue",
        depth=f"{COMPUTE_SLOTS} * compute_words",
    ),
    Ram(
        "gathered x^Q",
        None,
        "1",
        "4 * elements",
        "x^Q of two groups of pixels",
        _UNIT,
        _UNIT,
        depth="2 * hold",
        enable="4 * Q",
    ),
    Ram(
        "projected sums",
        None,
        "1",
        f"{SUM_BITS} * rows",
        "sums of a group of pixels",
        _UNIT,
        _UNIT,
        depth="max(2, hold * longest // rows)",
    ),
    Ram(
        "taps",
        None,
        "1",
        f"4 * min({TAP_NIBBLES}, 16 * w)",
        "p of input pixels, for `tap`",
        _UNIT,
        _UNIT,
        depth=str(TAP_PIXELS),
        enable=f"4 * min(rows, {TAP_NIBBLES}, 16 * w)",
    ),
)


@dataclass(frozen=True)
class Place:
    """Where a value of `bits` bits lies: bank, row, and its lowest bit in the word of the bank.

    `kind` as for :class:`Ram`.
    """

    value: str
    memory: str
    bank: str
    row: str
    bit: str
    bits: int
    kind: Kind | None = None


def _parameters() -> Iterator[Place]:
    """M, b, M~, b~, a and c: fields of a word of 128 bits."""
    names = ("M", "b", "M~", "b~", "a", "c")
    for name, (_, field) in zip(names, PARAMETERS, strict=True):
        at = str(field.offset), field.width
        yield Place(name, "parameters", "c % V", "parameters_base + c // V", *at, _U)
        yield Place(
            name,
            "parameters",
            "c // 8 % V * beta + c % beta",
            "parameters_base + c // (8 * V) * (8 // beta) + c % 8 // beta",
            *at,
            _S,
        )


PLACES = (
    Place("W", "weights", "c % V", "weights_base + b * groups + c // V", "16 * e", 16, _U),
    Place(
        "W",
        "weights",
        "c // 8 % V * beta + c % beta",
        "weights_base + (c // (8 * V) * beats + b) * (8 // beta) + c % 8 // beta",
        "16 * e",
        16,
        _S,
    ),
    Place(
        "W~",
        "weights",
        "c % V",
        "rough_base + (c // V * rough_beats + b) * 4 + e // (4 * w)",
        "4 * (e % (4 * w))",
        4,
        _U,
    ),
    Place(
        "W~",
        "weights",
        "c // 8 % V * beta + (c % 2 * 4 + e // (4 * w)) % beta",
        "rough_base + ((c // (8 * V) * 4 + c // 2 % 4) * rough_beats + b) * (8 // beta)"
        " + (c % 2 * 4 + e // (4 * w)) // beta",
        "4 * (e % (4 * w))",
        4,
        _S,
    ),
    Place("x", "x", "n % T", "x_base + u * x_plane + n // T", "16 * e", 16),
    Place("x^Q", "xq", "0", "q_base + u * q_plane + n", "4 * e", 4),
    Place(
        "P",
        "projection",
        "0",
        "p_base + (e // elements * p_row_tiles + r // rows) * load"
        " + 2 * (r % rows * elements + e % elements) // port",
        "2 * (r % rows * elements + e % elements) % port",
        2,
    ),
    *_parameters(),
    Place("residual", "residual", "c % V", "residual_base + (n << row_bits) + c // V", "0", 16, _U),
    Place(
        "residual",
        "residual",
        "n % T * V + c // 8 % V",
        "residual_base + (c // (8 * V) * batches + n // T) * 8 + c % 8",
        "0",
        16,
        _S,
    ),
    Place(
        "essential neuron",
        "masks",
        "c % V",
        "mask_base + i * mask_rows + m // W * ((groups * W + 63) // 64) + c // V // (64 // W)",
        "c // V % (64 // W) * W + m % W",
        1,
        _U,
    ),
    Place(
        "essential neuron",
        "masks",
        "0",
        "mask_base + s * groups + c // (8 * V) * d + m // T",
        "8 * (m % T * V + c // 8 % V) + c % 8",
        1,
        _S,
    ),
)


def sizes(machine: Machine) -> dict[str, int]:
    """Values of the names in :data:`SIZES`."""
    rpu = machine.rpu
    return {
        "V": machine.lanes,
        "T": machine.columns,
        "w": machine.pses,
        "beta": machine.weight_words,
        "W": machine.window,
        "rows": rpu.rows,
        "elements": rpu.elements,
        "longest": rpu.depth,
        "hold": rpu.hold,
        "port": rpu.port_bits,
        "Q": rpu.word,
        "load": rpu.load_cycles,
        "transfer_words": slot_words(transfer_fields(machine)),
        "compute_words": slot_words(compute_fields(machine)),
    }


def evaluate(formula: str, names: Mapping[str, int]) -> int:
    """The value of a formula."""
    return eval(formula, {"__builtins__": {}, "min": min, "max": max}, dict(names))


def shape(ram: Ram, machine: Machine) -> tuple[int, int, int, int]:
    """Banks, bits of a word, words of a bank, and bits of a write enable."""
    names = sizes(machine)
    banks, width = evaluate(ram.banks, names), evaluate(ram.width, names)
    if ram.depth:
        depth = evaluate(ram.depth, names)
    else:
        bits = 8192 * getattr(machine.memories, ram.memory).capacity_kib
        depth = max(2, bits // (2 if ram.memory == "residual" else 1) // (banks * width))
    return banks, width, depth, evaluate(ram.enable, names | {"width": width})
