"""Descriptors: the commands the host writes and the accelerator runs, field by field.

One table for the hardware's checks, the compiler, the testbenches and the documents. A descriptor
is a row of 32-bit words: a header, one word for each field, and a last word that makes the sum of
all words 0 modulo 2**32. Fields of signed type are two's complement. No field holds a duration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from .contract import CONTRACT, Contract
from .layer import ceil_div
from .machine import Machine

__all__ = [
    "COMPUTE",
    "FAULT_MEANINGS",
    "FLAG_MEANINGS",
    "TARGET_MEANINGS",
    "TRANSFER",
    "Fault",
    "Field",
    "Flag",
    "Target",
    "compute_fields",
    "memory_depth",
    "memory_row_bits",
    "pack",
    "slot_words",
    "sub_depth",
    "target_memory",
    "transfer_cycles",
    "transfer_fields",
    "transfer_row_bits",
]

#: Header words: "SIN" and the kind.
COMPUTE, TRANSFER = 0x53494E01, 0x53494E02


class Flag(IntFlag):
    """Bits of the field `flags` of a compute descriptor; :data:`FLAG_MEANINGS` says more."""

    APPROXIMATE = 1
    EXACT = 2
    RANK = 4
    INJECT = 8
    RESIDUAL = 16
    STORE_SUM = 32
    RELU = 64
    PROJECT = 128
    TAP = 256
    UNSIGNED = 512
    RELEASE = 1024


FLAG_MEANINGS = {
    Flag.APPROXIMATE: "run APPROXIMATE; without it the part is dense",
    Flag.EXACT: "run EXACT",
    Flag.RANK: "select the `essential` largest of 8 (structured machine); otherwise z~ >= `theta`",
    Flag.INJECT: "essential neurons are in the mask memory already; select nothing",
    Flag.RESIDUAL: "add the residual",
    Flag.STORE_SUM: "keep s, before gain and offset, in the residual memory from `sum_base` on",
    Flag.RELU: "negative y become 0",
    Flag.PROJECT: "run the projection unit; without it p of the pixels is in its memory already",
    Flag.TAP: "projection `tap`; otherwise `patch`",
    Flag.UNSIGNED: "x^Q is 0 to 15; otherwise -8 to 7",
    Flag.RELEASE: "p of a block is free after its last approximate tile",
}


class Target(IntEnum):
    """What a transfer fills or empties; :data:`TARGET_MEANINGS` says more."""

    WEIGHTS = 0
    X = 1
    RESIDUAL = 2
    XQ = 3
    PROJECTION = 4
    PARAMETERS = 5
    MASKS = 6
    STORE_Y = 8
    STORE_YQ = 9
    STORE_SUM = 10
    STORE_MASKS = 11


TARGET_MEANINGS = {
    Target.WEIGHTS: "load W and W~",
    Target.X: "load x",
    Target.RESIDUAL: "load the residual to add",
    Target.XQ: "load x^Q",
    Target.PROJECTION: "load P",
    Target.PARAMETERS: "load M, b, M~, b~, a and c",
    Target.MASKS: "load essential neurons, for INJECT",
    Target.STORE_Y: "store y, 16 bit",
    Target.STORE_YQ: "store y^Q, 4 bit, formed from y on the way out",
    Target.STORE_SUM: "store the sums s that STORE_SUM of a compute kept",
    Target.STORE_MASKS: "store the essential neurons as selected",
}


class Fault(IntEnum):
    """Error codes of STATUS that belong to no field; field n of a descriptor has code 16 + n."""

    NONE = 0
    HEADER = 1
    SUM = 2
    STALLED = 3
    COMBINATION = 4
    RING = 5


FAULT_MEANINGS = {
    Fault.NONE: "no fault",
    Fault.HEADER: "the first word is not the header of a descriptor of this queue",
    Fault.SUM: "the words do not add up to 0",
    Fault.STALLED: "no progress for the time of the watchdog",
    Fault.COMBINATION: "fields contradict each other or the machine: a rule is broken",
    Fault.RING: "more descriptors announced than the queue has slots",
}


@dataclass(frozen=True)
class Field:
    """A field: its name, least and greatest legal value, and meaning."""

    name: str
    low: int
    high: int
    meaning: str

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def bits(self) -> int:
        """Bits that hold every legal value."""
        if self.signed:
            return max((-self.low - 1).bit_length(), self.high.bit_length()) + 1
        return max(1, self.high.bit_length())


#: Largest counts a descriptor may hold; they bound the counters of the hardware.
MAX_PIXELS = 1 << 16
MAX_CHANNELS = 1 << 12
MAX_SIDE = 1 << 10
MAX_KERNEL = 15
MAX_BEATS = 1 << 15


def memory_row_bits(machine: Machine, name: str) -> int:
    """Bits at one address of all banks of memory `name`: the unit of a transfer."""
    word = 16 * machine.pses
    match name:
        case "weights":
            return machine.lanes * machine.weight_words * word
        case "x":
            return machine.columns * word
        case "y" | "residual":
            return 16 * machine.vpus
        case "xq":
            return 4 * machine.rpu.word
        case "p":
            return machine.columns * 4 * word
        case "projection":
            return machine.rpu.port_bits
        case "parameters":
            return 128 * machine.lanes * machine.weight_words
        case "masks":
            return 64 * machine.lanes if machine.unstructured else 8 * machine.vpus
    raise KeyError(name)


def memory_depth(machine: Machine, name: str) -> int:
    """Rows of memory `name`; of the residual, rows of either half: sums to add, sums to keep."""
    capacity = getattr(machine.memories, name).capacity_kib * 8192
    if name == "residual":
        capacity //= 2
    return max(2, capacity // memory_row_bits(machine, name))


_MEMORY_OF = {
    Target.WEIGHTS: "weights",
    Target.X: "x",
    Target.RESIDUAL: "residual",
    Target.XQ: "xq",
    Target.PROJECTION: "projection",
    Target.PARAMETERS: "parameters",
    Target.MASKS: "masks",
    Target.STORE_Y: "y",
    Target.STORE_YQ: "y",
    Target.STORE_SUM: "residual",
    Target.STORE_MASKS: "masks",
}


def target_memory(target: Target) -> str:
    """Name of the memory that `target` fills or empties."""
    return _MEMORY_OF[target]


def transfer_row_bits(machine: Machine, target: Target) -> int:
    """Bits of a row of `target` in the stream: those of the memory, y^Q a quarter of y."""
    bits = memory_row_bits(machine, target_memory(target))
    return bits // 4 if target is Target.STORE_YQ else bits


def transfer_cycles(
    machine: Machine, target: Target, rows: int, contract: Contract = CONTRACT
) -> int:
    """Cycles of a transfer of `rows` rows while the stream never waits.

    They count from the first cycle in which the transfer may start to the first in which it counts
    as done. A stream word a cycle, and a row a cycle.
    """
    words = ceil_div(rows * transfer_row_bits(machine, target), 8 * machine.dma.bytes_per_cycle)
    return max(words, rows) + (contract.store if target >= Target.STORE_Y else contract.load)


def sub_depth(machine: Machine) -> int:
    """Most batches of an approximate sub-block: two rows in the accumulators, and the collector."""
    return min(machine.accumulators // 2, machine.collector)


def compute_fields(machine: Machine) -> tuple[Field, ...]:
    """Fields of a COMPUTE descriptor on `machine`, in order."""

    def base(name: str) -> tuple[int, int]:
        return 0, memory_depth(machine, name) - 1

    r, side = machine.accumulators, MAX_SIDE
    far = side * side
    sub = r if machine.unstructured else sub_depth(machine)
    rows = [
        ("wait", 0, 0xFFFF, "transfers, since START, that must be done before"),
        ("flags", 0, sum(Flag), "sum of flags"),
        ("pixels", 1, MAX_PIXELS, "output pixels of the part"),
        ("channels", 1, MAX_CHANNELS, "output channels of the part"),
        ("w_out", 1, side, "output pixels of a row"),
        ("batches", 1, MAX_PIXELS, "ceil(pixels / T)"),
        # Tiles.
        ("groups", 1, MAX_CHANNELS, "S: supergroups of 8 V channels. U: rows of V channels"),
        ("tiles", 1, MAX_PIXELS, "blocks of batches"),
        ("tile_depth", 1, r, "batches of a block"),
        ("tile_more", 0, MAX_PIXELS, "the first blocks that are a batch deeper"),
        ("sub_count", 0, r, "approximate sub-blocks of a block of tile_depth batches"),
        ("sub_depth", 0, sub, "batches of such a sub-block"),
        ("sub_more", 0, r, "the first of them that are a batch deeper"),
        ("sub_count_deep", 0, r, "the same for blocks of tile_depth + 1 batches"),
        ("sub_depth_deep", 0, sub, "the same for blocks of tile_depth + 1 batches"),
        ("sub_more_deep", 0, r, "the same for blocks of tile_depth + 1 batches"),
        # EXACT: geometry of x as the hardware sees it.
        ("kernel", 1, MAX_KERNEL, "side of the window of x"),
        ("stride", 1, MAX_KERNEL, "step of the window of x"),
        ("w_in", 1, side, "pixels of a row of x"),
        ("h_in", 1, side, "rows of x in the memory"),
        ("row0", -MAX_KERNEL, side, "row of x at tap 0 of pixel 0; negative in the padding"),
        ("column0", -MAX_KERNEL, 0, "column of x at tap 0 of pixel 0"),
        ("linear0", -far, far, "row0 * w_in + column0"),
        ("step_columns", 0, side, "T mod w_out"),
        ("step_column", 0, far, "columns of x from a batch to the next: stride * step_columns"),
        ("step_row", 0, far, "rows of x likewise: stride * (T div w_out)"),
        ("step_linear", 0, far, "pixels of x likewise: step_row * w_in + step_column"),
        ("wrap_column", 0, far, "stride * w_out"),
        ("wrap_linear", -far, far, "stride * (w_in - w_out)"),
        ("x_words", 1, MAX_BEATS, "words of a pixel of x"),
        ("x_plane", 1, far, "rows of the x memory from a word of a pixel to the next"),
        ("x_base", *base("x"), "first row of x"),
        ("beats", 1, MAX_BEATS, "B"),
        ("weights_base", *base("weights"), "first row of W"),
        # APPROXIMATE.
        ("rough_beats", 0, MAX_BEATS, "B4"),
        ("rough_base", *base("weights"), "first row of W~"),
        ("essential", 0, 8, "N of RANK"),
        ("theta", -(1 << 15), 1 << 15, "essential where z~ >= theta"),
        ("mask_base", *base("masks"), "first row of the masks"),
        ("mask_rows", 0, memory_depth(machine, "masks"), "U: mask words of a whole tile"),
        # Outputs.
        ("row_bits", 0, 12, "U: address bits of a pixel's rows in y: ceil(log2(groups))"),
        ("parameters_base", *base("parameters"), "first row of the parameters"),
        ("y_base", *base("y"), "first row of y"),
        ("residual_base", *base("residual"), "first row of the residual to add"),
        ("sum_base", *base("residual"), "first row of the sums to keep"),
        ("shift", 0, 62, "r of EXACT"),
        ("rough_shift", 0, 62, "r~ of APPROXIMATE"),
        ("gain_shift", 0, 62, "ra of the affine"),
        # Projection unit: geometry of x^Q.
        ("q_kernel", 1, MAX_KERNEL, "side of the window of x^Q"),
        ("q_stride", 1, MAX_KERNEL, "step of the window of x^Q"),
        ("q_w_in", 1, side, "pixels of a row of x^Q"),
        ("q_h_in", 1, side, "rows of x^Q in the memory"),
        ("q_row0", -MAX_KERNEL, side, "row of x^Q at tap 0 of pixel 0"),
        ("q_column0", -MAX_KERNEL, 0, "column of x^Q at tap 0 of pixel 0"),
        ("q_words", 1, MAX_BEATS, "words of a pixel of x^Q"),
        ("q_plane", 1, far, "rows of the x^Q memory from a word of a pixel to the next"),
        ("q_base", *base("xq"), "first row of x^Q"),
        ("p_rows", 1, machine.rpu.depth, "rows of P: k, or k / taps for TAP"),
        ("p_row_tiles", 1, ceil_div(machine.rpu.depth, machine.rpu.rows), "ceil(p_rows / rows)"),
        ("p_element_tiles", 1, MAX_BEATS, "tiles of x^Q words of a window (TAP: of a pixel)"),
        ("p_base", *base("projection"), "first row of P"),
        ("p_shift", 0, 31, "sp"),
        ("p_room", 1, memory_depth(machine, "p"), "batches the p memory holds"),
    ]
    return tuple(Field(*row) for row in rows)


def transfer_fields(machine: Machine) -> tuple[Field, ...]:
    """Fields of a TRANSFER descriptor on `machine`, in order."""
    deepest = max(
        memory_depth(machine, name)
        for name in ("weights", "x", "y", "residual", "xq", "projection", "parameters", "masks")
    )
    rows = [
        ("wait", 0, 0xFFFF, "computes, since START, that must be done before"),
        ("target", 0, max(Target), "what the transfer fills or empties"),
        ("base", 0, deepest - 1, "first row"),
        ("inner", 1, deepest, "rows without a gap"),
        ("outer", 1, MAX_PIXELS, "runs of `inner` rows"),
        ("stride", 0, deepest, "rows from the start of a run to the start of the next"),
        ("quantise_shift", 0, 62, "sq of STORE_YQ"),
        ("unsigned", 0, 1, "whether y^Q is 0 to 15 rather than -8 to 7"),
    ]
    return tuple(Field(*row) for row in rows)


def slot_words(fields: tuple[Field, ...]) -> int:
    """Words from a slot of a queue to the next: a power of two that holds a descriptor."""
    return 1 << (len(fields) + 1).bit_length()


def pack(header: int, fields: tuple[Field, ...], values: Mapping[str, int]) -> NDArray[np.uint32]:
    """Return the words of a descriptor: header, fields in order, checking word.

    `values` holds exactly the names of `fields`; ranges are the hardware's to check.

    Raises
    ------
    ValueError
        If a field is missing, unknown or does not fit 32 bits.
    """
    names = [field.name for field in fields]
    if set(values) != set(names):
        raise ValueError(f"Fields must be {', '.join(names)}, not {', '.join(values)}")
    words = [header]
    for name in names:
        value = int(values[name])
        if not -(1 << 31) <= value < 1 << 32:
            raise ValueError(f"Field {name} must fit 32 bits, not {value}")
        words.append(value % (1 << 32))
    words.append(-sum(words) % (1 << 32))
    return np.array(words, dtype=np.uint32)
