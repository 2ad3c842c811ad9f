"""What simulating one layer gives, whichever engine did it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["LayerRun", "Span", "Step"]


class Step(NamedTuple):
    """A step of a part: phase "A" or "E", index of its tile in the program, and the cycles of its
    first and last issue since the launch of its part.

    An EXACT step of the unstructured machine lasts until the scanner has seen its last window,
    which may hold nothing to issue.

    An item that issues nothing, for want of essential neurons, counts as its place in the order;
    both are -1 where not even such an item exists.
    """

    phase: str
    tile: int
    first: int
    last: int


class Span(NamedTuple):
    """Something under way in cycles [begin, end) since the layer's start, for a timeline.

    `row` is who does it, `name` what.
    """

    row: str
    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class LayerRun:
    """Result of one layer and batch: cycles, their causes, slots, MACs and event counts.

    cycles = busy + all stalls; V * T * busy = the sum of slots; busy_approximate is part of busy,
    shallow_approximate of the stalls by cause shallow. With resident accounting the cycles
    are those of the computes, from the launch of the first to the last write of the last, as if
    transfers took no time; otherwise they begin when the descriptors are announced and end with the
    last store. `computes` has the cycles of each, from its launch to its last write. `projected`
    counts the vectors multiplied by P: im2col rows (`patch`) or input pixels (`tap`). `steps` has
    every step of every part, in order; `spans` what a timeline shows, where one was asked for.
    """

    cycles: int
    busy: int
    busy_approximate: int
    shallow_approximate: int
    stalls: dict[str, int]
    slots: dict[str, int]
    essential: int
    projected: int
    cycles_load: int
    cycles_store: int
    counts: dict[str, int]
    steps: tuple[Step, ...]
    computes: tuple[int, ...]
    spans: tuple[Span, ...] = ()
