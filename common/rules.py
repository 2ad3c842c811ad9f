"""Rules over several fields of a descriptor, and the cycles that fetching and checking take.

Fields may each be in range and yet contradict each other, so that the hardware would never come to
an end or leave a memory. One table of rules for the hardware, the compiler and the documents. The
hardware checks them with one adder, a step a cycle, while the later words of the descriptor come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .contract import CONTRACT, Contract
from .descriptor import (
    Flag,
    Target,
    compute_fields,
    memory_depth,
    sub_depth,
    target_memory,
    transfer_fields,
)
from .machine import Machine

__all__ = [
    "DEPTH",
    "DIGIT",
    "Add",
    "Multiply",
    "Need",
    "Rule",
    "between_computes",
    "broken",
    "compute_rules",
    "fetch_cycles",
    "flag_needs",
    "schedule",
    "transfer_rules",
]

#: Bits of a factor that the checker multiplies with in a cycle.
DIGIT = 4

#: A pseudo-field of transfers: rows of the memory that `target` names.
DEPTH = "depth"


@dataclass(frozen=True)
class Rule:
    """a * b + sum of terms, equal to 0 or at most 0.

    `product` names a and b, of which b has the fewer bits. A term is (sign, field, left shift);
    the field 1 is the number. The rule holds wherever not all of `when`, pairs of a field and a
    mask, have a bit in common.
    """

    meaning: str
    terms: tuple[tuple[int, str | int, int], ...]
    equal: bool = False
    product: tuple[str, str] | None = None
    when: tuple[tuple[str, int], ...] = ()

    @property
    def fields(self) -> set[str]:
        """Names of all fields it depends on."""
        names = {name for _, name, _ in self.terms if isinstance(name, str) and name != DEPTH}
        return names | set(self.product or ()) | {name for name, _ in self.when}

    def holds(self, values: Mapping[str, int]) -> bool:
        """Whether it holds for `values`, by name; they include the depth for a rule that has it."""
        if not all(values[name] & mask for name, mask in self.when):
            return True
        total = sum(
            sign * ((name if isinstance(name, int) else values[name]) << shift)
            for sign, name, shift in self.terms
        )
        if self.product:
            total += values[self.product[0]] * values[self.product[1]]
        return total == 0 if self.equal else total <= 0


@dataclass(frozen=True)
class Need:
    """With any flag of `given`, or always if that is 0, at least one of `needed` must be set."""

    given: Flag
    needed: Flag
    meaning: str


@dataclass(frozen=True)
class Multiply:
    """Step: total * 16 + a * (digit of b); the first one of a rule forgets the total before it."""

    a: str
    b: str
    digit: int
    first: bool


@dataclass(frozen=True)
class Add:
    """Step: total + sign * (field << shift), likewise."""

    sign: int
    field: str | int
    shift: int
    first: bool


def flag_needs(machine: Machine) -> tuple[Need, ...]:
    """What the flags of a COMPUTE descriptor need of each other."""
    rough = Flag.APPROXIMATE
    needs = [
        Need(Flag(0), rough | Flag.EXACT, "a part has at least one phase"),
        Need(Flag.RANK | Flag.INJECT, rough, "a dense part selects nothing"),
        Need(Flag.PROJECT, rough, "a dense part projects nothing"),
    ]
    if machine.unstructured:
        needs.append(Need(Flag.RANK, Flag(0), "this machine selects by a threshold"))
    return tuple(needs)


def compute_rules(machine: Machine) -> tuple[Rule, ...]:
    """Rules of a COMPUTE descriptor, in the order in which their fields come."""
    deep = ("tile_more", -1)
    rough = ("flags", int(Flag.APPROXIMATE))
    width = _log2(machine.channels_side_by_side)
    columns = _log2(machine.columns)
    rules = [
        *_ceil("batches = ceil(pixels / T)", "pixels", "batches", columns),
        *_ceil("groups = ceil(channels / channels side by side)", "channels", "groups", width),
        *_blocks("tiles", "tile_depth", "tile_more", (1, "batches"), 0, ()),
        Rule(
            "a deeper block fits the accumulators",
            ((1, "tile_depth", 0), (1, 1, 0), (-1, machine.accumulators, 0)),
            when=(deep,),
        ),
    ]
    if not machine.unstructured:
        whole, deeper = (rough,), (rough, deep)
        rules += _blocks("sub_count", "sub_depth", "sub_more", (1, "tile_depth"), 0, whole)
        rules += _sub_depth(machine, "", whole)
        rules += _blocks(
            "sub_count_deep", "sub_depth_deep", "sub_more_deep", (1, "tile_depth"), 1, deeper
        )
        rules += _sub_depth(machine, "_deep", deeper)
    rules += [
        Rule(
            "an approximate part has approximate beats",
            ((1, 1, 0), (-1, "rough_beats", 0)),
            when=(rough,),
        ),
        *_ceil(
            "p_row_tiles = ceil(p_rows / rows of the projection unit)",
            "p_rows",
            "p_row_tiles",
            _log2(machine.rpu.rows),
            (("flags", int(Flag.PROJECT)),),
        ),
        Rule(
            "p of a block fits its memory",
            ((1, "tile_depth", 0), (-1, "p_room", 0)),
            when=(rough,),
        ),
        Rule(
            "p of a deeper block fits its memory",
            ((1, "tile_depth", 0), (1, 1, 0), (-1, "p_room", 0)),
            when=(rough, deep),
        ),
    ]
    return tuple(rules)


def transfer_rules(machine: Machine) -> tuple[Rule, ...]:
    """Rules of a TRANSFER descriptor likewise."""
    return (
        Rule(
            "the last row is in the memory",
            ((1, "base", 0), (1, "inner", 0), (-1, "stride", 0), (-1, DEPTH, 0)),
            product=("stride", "outer"),
        ),
    )


def broken(machine: Machine, kind: str, values: Mapping[str, int]) -> list[str]:
    """Meanings of the rules that `values` break, all in range for `kind`.

    `kind` is "compute" or "transfer". The hardware answers any of them with Fault.COMBINATION.
    """
    if kind == "transfer":
        if values["target"] not in set(Target):
            return ["the target exists"]
        memory = target_memory(Target(values["target"]))
        values = {**values, DEPTH: memory_depth(machine, memory)}
        return [rule.meaning for rule in transfer_rules(machine) if not rule.holds(values)]
    faults = [
        need.meaning
        for need in flag_needs(machine)
        if (not need.given or values["flags"] & need.given) and not values["flags"] & need.needed
    ]
    return faults + [rule.meaning for rule in compute_rules(machine) if not rule.holds(values)]


def schedule(machine: Machine, kind: str) -> dict[int, tuple[Rule, Multiply | Add, bool]]:
    """Steps of the rules by cycle: the rule, the step, and whether it is the rule's last.

    Cycle 0 asks for the first word of a descriptor. Word i comes in cycle i + 1; its field can be
    used a cycle later. A rule starts when all of its fields can be used and the rule before it is
    over.
    """
    fields = compute_fields(machine) if kind == "compute" else transfer_fields(machine)
    arrival = {field.name: 3 + index for index, field in enumerate(fields)}
    bits = {field.name: field.bits for field in fields}
    rules = compute_rules(machine) if kind == "compute" else transfer_rules(machine)
    table: dict[int, tuple[Rule, Multiply | Add, bool]] = {}
    cycle = 0
    for rule in rules:
        cycle = max(cycle, *(arrival[name] for name in rule.fields))
        steps: list[Multiply | Add] = []
        if rule.product:
            a, b = rule.product
            digits = -(-bits[b] // DIGIT)
            steps += [Multiply(a, b, n, n == digits - 1) for n in reversed(range(digits))]
        steps += [Add(*term, not steps and not at) for at, term in enumerate(rule.terms)]
        for index, step in enumerate(steps):
            table[cycle] = rule, step, index == len(steps) - 1
            cycle += 1
    return table


def fetch_cycles(machine: Machine, kind: str, contract: Contract = CONTRACT) -> int:
    """Cycles from the first in which a queue has a descriptor and nothing else to do, to the first
    in which that is offered to its engine."""
    fields = compute_fields(machine) if kind == "compute" else transfer_fields(machine)
    return max(len(fields) + 2, *schedule(machine, kind)) + contract.fetch


@cache
def between_computes(machine: Machine, contract: Contract = CONTRACT) -> int:
    """Cycles from the last of a compute to the first of the next one that waits for no transfer."""
    return contract.finish + fetch_cycles(machine, "compute", contract) + contract.start


def _log2(power: int) -> int:
    return power.bit_length() - 1


def _ceil(
    meaning: str, whole: str, count: str, shift: int, when: tuple[tuple[str, int], ...] = ()
) -> list[Rule]:
    """count = ceil(whole / 2**shift), as two inequalities."""
    return [
        Rule(meaning, ((1, whole, 0), (-1, count, shift)), when=when),
        Rule(
            meaning,
            ((1, count, shift), (-1, whole, 0), (-1, (1 << shift) - 1, 0)),
            when=when,
        ),
    ]


def _blocks(
    count: str,
    depth: str,
    more: str,
    total: tuple[int, str],
    extra: int,
    when: tuple[tuple[str, int], ...],
) -> list[Rule]:
    """count * depth + more is the total, plus `extra`, and not every block is a deeper one."""
    terms: list[tuple[int, str | int, int]] = [(1, more, 0), (-total[0], total[1], 0)]
    if extra:
        terms.append((-1, extra, 0))
    return [
        Rule(
            f"{count} * {depth} + {more} = {total[1]}{' + 1' if extra else ''}",
            tuple(terms),
            equal=True,
            product=(count, depth),
            when=when,
        ),
        Rule(f"{more} < {count}", ((1, more, 0), (1, 1, 0), (-1, count, 0)), when=when),
    ]


def _sub_depth(machine: Machine, suffix: str, when: tuple[tuple[str, int], ...]) -> list[Rule]:
    """Sub-blocks are not empty, and the collector takes the deeper ones."""
    depth, more = f"sub_depth{suffix}", f"sub_more{suffix}"
    return [
        Rule(f"{depth} is at least 1", ((1, 1, 0), (-1, depth, 0)), when=when),
        Rule(
            f"{depth} + 1 fits the collector where {more} is not 0",
            ((1, depth, 0), (1, 1, 0), (-1, sub_depth(machine), 0)),
            when=(*when, (more, -1)),
        ),
    ]
