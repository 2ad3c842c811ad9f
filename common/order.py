"""The order of a layer's transfers, and what waits for what: one for descriptors and simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .allocation import Move
from .parts import Part

__all__ = ["Order", "Queued", "order"]


class Queued(NamedTuple):
    """A transfer of part `part`, which starts when `wait` computes are done."""

    part: int
    move: Move
    wait: int


@dataclass(frozen=True)
class Order:
    """Transfers in order, and how many of them must be done before each part's compute starts."""

    transfers: tuple[Queued, ...]
    needed: tuple[int, ...]


def order(
    parts: Sequence[Part],
    places: int,
    *,
    loads: Sequence[Sequence[Move]] = (),
    stores: Sequence[Sequence[Move]] = (),
) -> Order:
    """Load 0, load 1, then after compute i the load of part i + 2 and the store of part i.

    So it is with two `places` of what a part reads and writes, used in turn: the load of the next
    part and the store of the last one run while a part computes. With one place the load of part
    i + 1 follows compute i. A part waits for its loads, and for the stores that free its places.
    `loads` and `stores` have moves of each part that come on top of its own.
    """
    transfers: list[Queued] = []
    needed: list[int] = []

    def load(part: int, wait: int) -> None:
        more = loads[part] if loads else ()
        transfers.extend(Queued(part, move, wait) for move in (*parts[part].place.loads, *more))

    count = len(parts)
    for part in range(min(places, count)):
        load(part, 0)
        needed.append(len(transfers))
    for part in range(count):
        if part + places < count:
            load(part + places, part + 1)
        more = stores[part] if stores else ()
        transfers.extend(
            Queued(part, move, part + 1) for move in (*parts[part].place.stores, *more)
        )
        if part + places < count:
            needed.append(len(transfers))
    return Order(tuple(transfers), tuple(needed))
