"""The page of registers, descriptors and memories, rendered from the tables behind the RTL.

Run with `python -m sinai.hw.register_map`, or `make registers`: writes docs/registers.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..common.machine import PRESETS, Machine
from .counters import COUNTERS
from .memory_map import INDICES, PLACES, RAMS, SIZES, Place, Ram, shape
from .registers import describe

__all__ = ["main", "render"]

_HEAD = """\
# Registers, descriptors and memories

Rendered from the tables that the RTL is made of; `make registers` writes this page anew. What it
says of one machine is in `registers.json` beside its Verilog too. All numbers of bytes, words, rows
and cycles are whole, and all words are of 32 bits unless another width is given.

## A program

1. Write CONTROL.START and CONTROL.CLEAR.
2. Write descriptors into their slots, descriptor number n into slot n modulo the number of slots.
3. Write TAIL: how many transfers and computes are announced. Feed and drain the streams.
4. Read STATUS until IDLE is 1. As HEAD moves, slots are free for descriptors to come.
5. An error is there when STOPPED is 1. ERROR, QUEUE and SLOT say which; CONTROL.RESET clears it.

The two low bits of an address are ignored. Reads of what cannot be read give 0, and writes to what
cannot be written do nothing. A write acts in the next cycle, and a read answers in the next.
"""

_BOUNDS = """\
The first of these that holds is the fault of a descriptor: RING, HEADER, the fields in order, SUM,
COMBINATION. It stands in STATUS at most {TRANSFER} cycles after the write of TAIL that announces a
transfer, {COMPUTE} for a compute, if the queue has no descriptor before it; otherwise as long after
the one before is done. What no check sees may still come to a stop, such as a transfer whose stream
never moves: after {watchdog:,} cycles in which no vector unit issues, no word or row moves and the
projection unit does nothing, STATUS has STALLED. Nothing is fetched then until CONTROL.RESET, and
the next program starts as after power-up.
"""

_MEMORIES = """\
A row of a memory is the words of all its banks at one address, bank 0 in the low bits; transfers
count and move rows. A row that is wider than a word of the stream takes several of them, low bits
first; of narrower ones several share one. A bank has a port to read and one to write; a word that
is read in the cycle of its write is the old one. Nothing relies on what a word holds before it is
written; places of a row that no channel or pixel has are stored as they are.

In formulas `//` divides without remainder and `%` is the remainder. Where `depth` is not given, it
is what the `capacity_kib` of the memory holds, at least 2, and half of that for either half of the
residual memory.

{sizes}
"""

_PLACES = """\
A value of so many bits begins at bit `bit` of the word in row `row` of bank `bank`. y lies as the
residual does, with `y_base` for `residual_base`, and so do the sums to keep, with `sum_base`. An
entry of P is 0, 1, or 3 for -1. Rows of masks that would lie behind the last row of the memory
begin again at row 0. Names are the sizes above, fields of the COMPUTE descriptor, and

{indices}
"""


def render() -> str:
    """The page, as Markdown."""
    described = {name: describe(machine) for name, machine in PRESETS.items()}
    first = next(iter(described.values()))
    watchdog = first["watchdog_cycles"]
    bounds = {kind: each["fault_cycles"] for kind, each in first["descriptors"].items()}
    sections = [
        _HEAD,
        "## Address map\n",
        _address_map(first),
        "## Registers\n",
        _registers(first, described),
        "### Counters\n",
        "48 bits each, in two registers; HIGH is what belonged to the LOW read last.\n",
        _counters(first),
        "## Descriptors\n",
        "Word 0 is the header, word 1 + n field n, and a last word makes the sum of all words 0\n"
        "modulo 2^32. Fields with a negative least value are two's complement. A field out of\n"
        "range is a fault with the code that stands beside it.\n",
    ]
    for kind in first["descriptors"]:
        sections += [f"### {kind}\n", *_descriptor(kind, described)]
    sections += [
        "### Flags\n",
        _named(first, "flags", "bit", lambda value: value.bit_length() - 1),
        "### Targets\n",
        _named(first, "targets", "target"),
        "## Faults\n",
        _named(first, "faults", "code"),
        "Codes from 16 on are fields out of range, above.\n",
        _BOUNDS.format(watchdog=watchdog, **bounds),
        "## Memories\n",
        _MEMORIES.format(sizes=_names(SIZES)),
        _ram_table(),
        "Banks x bits x words, by preset:\n",
        _ram_sizes(),
        "### Where a value lies\n",
        _PLACES.format(indices=_names(INDICES)),
        _place_table(),
    ]
    return "\n".join(sections)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _names(meanings: dict[str, str]) -> str:
    return _table(
        ("name", "meaning"), ((f"`{name}`", meaning) for name, meaning in meanings.items())
    )


def _address_map(described: dict[str, Any]) -> str:
    counters = _counter_registers(described)
    plain = [each for each in described["registers"] if each not in counters]
    rows = [
        (_span(each["address"], 4), each["name"], each["access"], each["meaning"]) for each in plain
    ]
    span = _span(counters[0]["address"], 4 * len(counters))
    rows.append((span, "counters", "ro", "where the cycles go"))
    for window in described["windows"]:
        meaning = (
            f"{window['meaning']}: {window['slots']} slots, {window['slot_bytes']} bytes from one"
            " to the next"
        )
        rows.append((_span(window["address"], window["size"]), window["name"], "wo", meaning))
    return _table(("bytes", "name", "access", "meaning"), rows)


def _span(address: int, size: int) -> str:
    return f"`{address:04x}` to `{address + size - 1:04x}`"


def _counter_registers(described: dict[str, Any]) -> list[dict[str, Any]]:
    names = {f"{name.upper()}_{half}" for name in COUNTERS for half in ("LOW", "HIGH")}
    return [each for each in described["registers"] if each["name"] in names]


def _registers(first: dict[str, Any], described: dict[str, dict[str, Any]]) -> str:
    counters = _counter_registers(first)
    rows = []
    for index, register in enumerate(first["registers"]):
        if register in counters:
            continue
        resets = {each["registers"][index]["reset"] for each in described.values()}
        reset = f"`{resets.pop():08x}`" if len(resets) == 1 else "by machine"
        for bits in register["bits"]:
            top, low = bits["low"] + bits["width"] - 1, bits["low"]
            rows.append(
                (
                    f"`{register['address']:04x}`",
                    register["name"],
                    register["access"],
                    reset,
                    str(low) if top == low else f"{top}:{low}",
                    bits["name"],
                    bits["meaning"],
                )
            )
    head = ("address", "register", "access", "after reset", "bits", "part", "meaning")
    return _table(head, rows)


def _counters(described: dict[str, Any]) -> str:
    at = {each["name"]: each["address"] for each in described["registers"]}
    rows = [
        (
            f"`{at[f'{name.upper()}_LOW']:04x}`",
            f"`{at[f'{name.upper()}_HIGH']:04x}`",
            name.upper(),
            meaning,
        )
        for name, meaning in COUNTERS.items()
    ]
    return _table(("LOW", "HIGH", "counter", "meaning"), rows)


def _descriptor(kind: str, described: dict[str, dict[str, Any]]) -> list[str]:
    first = next(iter(described.values()))["descriptors"][kind]
    rows, differing = [], []
    for index, field in enumerate(first["fields"]):
        highs = [each["descriptors"][kind]["fields"][index]["high"] for each in described.values()]
        same = len(set(highs)) == 1
        if not same:
            differing.append((f"`{field['name']}`", *(f"{high:,}" for high in highs)))
        greatest = f"{field['high']:,}" if same else "by machine"
        rows.append(
            (
                field["word"],
                field["code"],
                f"`{field['name']}`",
                f"{field['low']:,}",
                greatest,
                field["meaning"],
            )
        )
    rules = {
        name: each["descriptors"][kind]["rules"]
        for name, each in described.items()
        if not name.endswith("-small")
    }
    everywhere = [rule for rule in first["rules"] if all(rule in r for r in rules.values())]
    texts = [f"* {rule}" for rule in everywhere]
    for machine in (PRESETS["unstructured"], PRESETS["structured"]):
        texts += [
            f"* {machine.kind}: {rule}" for rule in rules[machine.name] if rule not in everywhere
        ]
    return [
        f"Header `{first['header']:08x}`, {len(first['fields']) + 2} words.\n",
        _table(("word", "code", "field", "least", "greatest", "meaning"), rows),
        "Greatest values that depend on the machine:\n",
        _table(("field", *described), differing),
        "Fields that do not fit each other are the fault COMBINATION:\n",
        "\n".join(texts) + "\n",
    ]


def _named(described: dict[str, Any], group: str, head: str, number=lambda value: value) -> str:
    meanings = described["meanings"][group]
    rows = ((number(value), name, meanings[name]) for name, value in described[group].items())
    return _table((head, "name", "meaning"), rows)


def _by_kind(each: Ram | Place) -> str:
    return each.kind or "both"


def _ram_table() -> str:
    rows = [
        (
            ram.name,
            _by_kind(ram),
            f"`{ram.banks}`",
            f"`{ram.width}`",
            f"`{ram.depth}`" if ram.depth else "",
            f"`{ram.enable}`",
            ram.holds,
            ram.writer,
            ram.reader,
        )
        for ram in RAMS
    ]
    head = ("memory", "machines", "banks", "bits", "depth", "written alone", "holds")
    return _table((*head, "written by", "read by"), rows)


def _ram_sizes() -> str:
    machines = PRESETS.values()
    names = dict.fromkeys(ram.name for ram in RAMS)
    rows = ((name, *(_size(name, machine) for machine in machines)) for name in names)
    return _table(("memory", *PRESETS), rows)


def _size(name: str, machine: Machine) -> str:
    [ram] = [ram for ram in RAMS if ram.name == name and ram.kind in (None, machine.kind)]
    banks, width, depth, _ = shape(ram, machine)
    return f"{banks} x {width} x {depth:,}"


def _place_table() -> str:
    rows = [
        (
            place.value,
            place.memory,
            _by_kind(place),
            f"`{place.bank}`",
            f"`{place.row}`",
            f"`{place.bit}`",
            place.bits,
        )
        for place in PLACES
    ]
    return _table(("value", "memory", "machines", "bank", "row", "bit", "bits"), rows)


def main() -> None:
    """Write the page into the documentation, or elsewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "docs" / "registers.md"
    parser.add_argument("-o", "--output", type=Path, default=default, help="by default %(default)s")
    args = parser.parse_args()
    try:
        args.output.write_text(render(), encoding="utf-8")
    except OSError as error:
        parser.error(f"{args.output}: cannot be written ({error.strerror}); give -o FILE")


if __name__ == "__main__":
    main()
