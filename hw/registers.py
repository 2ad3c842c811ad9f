"""The registers and windows of the host port: one table for the RTL, registers.json and readers."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..common.descriptor import (
    COMPUTE,
    FAULT_MEANINGS,
    FLAG_MEANINGS,
    TARGET_MEANINGS,
    TRANSFER,
    Fault,
    Field,
    Flag,
    Target,
    compute_fields,
    slot_words,
    transfer_fields,
)
from ..common.machine import Machine
from ..common.rules import compute_rules, fetch_cycles, flag_needs, transfer_rules
from .counters import COUNTER_BITS, COUNTERS

__all__ = [
    "COMPUTE_SLOTS",
    "TRANSFER_SLOTS",
    "WATCHDOG",
    "Bits",
    "Register",
    "Window",
    "describe",
    "digest",
    "fault_cycles",
    "hardware",
    "registers",
    "windows",
]

#: Slots of the two queues.
COMPUTE_SLOTS, TRANSFER_SLOTS = 8, 32

#: Cycles without progress after which the watchdog ends a program: STALLED.
WATCHDOG = 1 << 20

#: Of IDENTITY ("SINA") and VERSION, the version of registers and descriptors.
IDENTITY, VERSION = 0x53494E41, 1

_FIRST_COUNTER = 0x100
_FIRST_WINDOW = 0x1000


@dataclass(frozen=True)
class Bits:
    """Part of a register: bits low to low + width - 1. Bits of no part read 0."""

    name: str
    low: int
    width: int
    meaning: str


@dataclass(frozen=True)
class Register:
    """A register of 32 bits: its byte address, access, value after reset, and parts.

    Access is "ro" (writes are ignored), "rw" or "wo" (reads give 0; a 1 written does something).
    """

    name: str
    address: int
    access: Literal["ro", "rw", "wo"]
    reset: int
    meaning: str
    bits: tuple[Bits, ...]


@dataclass(frozen=True)
class Window:
    """Descriptor memory of a queue: byte address, slots, and bytes from one to the next.

    Word i of a descriptor lies at address + slot * slot_bytes + 4 i. Reads give 0.
    """

    name: str
    address: int
    slots: int
    slot_bytes: int
    meaning: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.slots * self.slot_bytes


def digest(machine: Machine) -> int:
    """Number of 32 bits that tells machines apart: from SHA-256 of the whole description, but for
    `dma.capacity_kib`, which is about programs."""
    text = hardware(machine).model_dump_json()
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def hardware(machine: Machine) -> Machine:
    """The machine with resident accounting: what its hardware follows from. How a layer is split
    into parts is a matter of programs alone."""
    return machine.model_copy(update={"dma": machine.dma.model_copy(update={"capacity_kib": None})})


def registers(machine: Machine) -> tuple[Register, ...]:
    """The registers of `machine`, by rising address.

    A counter has two, NAME_LOW and NAME_HIGH; HIGH holds what belonged to the LOW read last.
    """

    def whole(name: str, address: int, access: Any, reset: int, width: int, meaning: str):
        return Register(name, address, access, reset, meaning, (Bits("VALUE", 0, width, meaning),))

    def both(name: str, address: int, access: Any, meaning: str):
        halves = (("TRANSFERS", 0, "of transfers"), ("COMPUTES", 16, "of computes"))
        return Register(
            name, address, access, 0, meaning, tuple(Bits(n, low, 16, m) for n, low, m in halves)
        )

    done = "descriptors done since START; the number of the one under way"
    announced = (
        "descriptors announced since START, at most as many ahead of HEAD as there are slots; one"
        " write starts both queues in the same cycle"
    )
    control = (
        Bits("START", 0, 1, "new program: heads and tails become 0; ignored unless STATUS.IDLE"),
        Bits("CLEAR", 1, 1, "all counters and STATUS.UNCOUNTED become 0"),
        Bits("RESET", 2, 1, "end whatever is under way, clear the error; heads and tails become 0"),
    )
    status = (
        Bits("BUSY", 0, 1, "descriptors are announced that are not done"),
        Bits("IDLE", 1, 1, "neither BUSY nor STOPPED"),
        Bits("STOPPED", 2, 1, "ERROR is not 0: nothing is fetched until CONTROL.RESET"),
        Bits("UNCOUNTED", 3, 1, "a cycle had no cause: an error of the hardware"),
        Bits("ERROR", 8, 8, "the first fault: its code"),
        Bits("QUEUE", 16, 1, "its queue: 0 transfers, 1 computes"),
        Bits("SLOT", 24, 8, "its slot"),
    )
    table = [
        whole("IDENTITY", 0x00, "ro", IDENTITY, 32, "the letters SINA"),
        whole("VERSION", 0x04, "ro", VERSION, 32, "version of registers and descriptors"),
        whole("MACHINE", 0x08, "ro", digest(machine), 32, "digest of the machine description"),
        Register("CONTROL", 0x10, "wo", 0, "what to do now", control),
        Register("STATUS", 0x14, "ro", 2, "how it goes", status),
        both("TAIL", 0x20, "rw", announced),
        both("HEAD", 0x24, "ro", done),
    ]
    for index, (name, meaning) in enumerate(COUNTERS.items()):
        address = _FIRST_COUNTER + 8 * index
        low, high = f"{name.upper()}_LOW", f"{name.upper()}_HIGH"
        rest = COUNTER_BITS - 32
        table += [
            whole(low, address, "ro", 0, 32, f"{meaning}: bits 31 to 0"),
            whole(high, address + 4, "ro", 0, rest, f"{meaning}: bits {COUNTER_BITS - 1} to 32"),
        ]
    return tuple(table)


def windows(machine: Machine) -> tuple[Window, Window]:
    """The descriptor memories of `machine`: transfers, computes."""
    transfers, computes = (
        4 * slot_words(fields) for fields in (transfer_fields(machine), compute_fields(machine))
    )
    # Each lies at a multiple of its size.
    second = max(_FIRST_WINDOW + TRANSFER_SLOTS * transfers, COMPUTE_SLOTS * computes)
    second += -second % (COMPUTE_SLOTS * computes)
    return (
        Window(
            "TRANSFERS",
            _FIRST_WINDOW,
            TRANSFER_SLOTS,
            transfers,
            "TRANSFER descriptors, write only",
        ),
        Window("COMPUTES", second, COMPUTE_SLOTS, computes, "COMPUTE descriptors, write only"),
    )


def fault_cycles(machine: Machine, kind: Literal["transfer", "compute"]) -> int:
    """Cycles from the write of TAIL that announces a descriptor to a queue that has no other, to
    the first in which a read of STATUS shows its fault; fewer if an early word is wrong.

    Two more than its fetch takes: the tail moves in the cycle after the write, and STATUS keeps a
    fault in the cycle after the queue has found it.
    """
    return fetch_cycles(machine, kind) + 2


def describe(machine: Machine) -> dict[str, Any]:
    """All a program of the host needs to know, as JSON can hold it."""
    fields = {"TRANSFER": transfer_fields(machine), "COMPUTE": compute_fields(machine)}
    headers = {"TRANSFER": TRANSFER, "COMPUTE": COMPUTE}
    rules = {
        "TRANSFER": ["the target exists", *(rule.meaning for rule in transfer_rules(machine))],
        "COMPUTE": [
            *(need.meaning for need in flag_needs(machine)),
            *(rule.meaning for rule in compute_rules(machine)),
        ],
    }
    return {
        "machine": machine.name,
        "registers": [asdict(register) for register in registers(machine)],
        "windows": [{**asdict(window), "size": window.size} for window in windows(machine)],
        "descriptors": {
            kind: {
                "header": headers[kind],
                "fields": _describe(fields[kind]),
                "rules": list(dict.fromkeys(rules[kind])),
                "fault_cycles": fault_cycles(machine, kind.lower()),
            }
            for kind in fields
        },
        "faults": {fault.name: fault.value for fault in Fault},
        "flags": {flag.name: flag.value for flag in Flag},
        "targets": {target.name: target.value for target in Target},
        "meanings": {
            kind: {each.name: meaning for each, meaning in table.items()}
            for kind, table in (
                ("faults", FAULT_MEANINGS),
                ("flags", FLAG_MEANINGS),
                ("targets", TARGET_MEANINGS),
            )
        },
        "watchdog_cycles": WATCHDOG,
    }


def _describe(fields: tuple[Field, ...]) -> list[dict[str, Any]]:
    """Word 1 + n of a descriptor is field n, whose error code is 16 + n."""
    return [
        {"word": 1 + index, "code": 16 + index, **asdict(field)}
        for index, field in enumerate(fields)
    ]
