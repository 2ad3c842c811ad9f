"""What the processes of the stepped engine share: marks to wait for, and the ledger of a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from typing import NamedTuple

import simpy

from ..common.contract import STALL_CAUSES
from ..common.layer import Layer
from .layer_run import Span, Step

__all__ = ["Gate", "Ledger", "Mark", "Process"]

Process = Generator[simpy.Event, object, None]


class Mark:
    """A count that only grows, of what has happened so far, and who waits for it to grow."""

    __slots__ = ("count", "env", "waiting")

    def __init__(self, env: simpy.Environment, count: int = 0):
        self.env, self.count = env, count
        self.waiting: list[tuple[int, simpy.Event]] = []

    def advance(self, count: int) -> None:
        """Raise the count to `count` now."""
        self.count = count
        if self.waiting:
            still = []
            for need, event in self.waiting:
                if need <= count:
                    event.succeed()
                else:
                    still.append((need, event))
            self.waiting = still

    def advance_in(self, cycles: int, count: int) -> None:
        """Raise the count to `count` in so many cycles."""
        later = self.env.timeout(cycles)
        later.callbacks.append(lambda _: self.advance(count))

    def reach(self, need: int) -> simpy.Event:
        """The event that the count is `need`; wait for it only where it is not yet."""
        event = self.env.event()
        self.waiting.append((need, event))
        return event


class Gate(NamedTuple):
    """What must have happened before something is fetched, and the cause of a wait for it."""

    mark: Mark
    need: int
    cause: str


class Ledger:
    """Account of a part: each cycle by its cause, slots, events, steps, and spans if recorded."""

    def __init__(self, env: simpy.Environment, record: bool):
        self.env, self.record = env, record
        self.busy = self.busy_approximate = self.shallow_approximate = 0
        self.essential = self.projected = 0
        self.stalls = dict.fromkeys(STALL_CAUSES, 0)
        self.slots: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.steps: list[Step] = []
        self.spans: list[Span] = []
        self.latest: dict[str, int] = {}  # place of each row's last span

    def span(self, row: str, name: str, begin: int) -> None:
        """Note for the timeline what went on from `begin` until now; where the row's last span has
        the same name and ends then, that one goes on."""
        now = self.env.now
        if not self.record or begin == now:
            return
        at = self.latest.get(row)
        if at is not None and self.spans[at].name == name and self.spans[at].end == begin:
            self.spans[at] = self.spans[at]._replace(end=now)
            return
        self.latest[row] = len(self.spans)
        self.spans.append(Span(row, name, begin, now))

    def lanes(self, names: Sequence[str], begin: int) -> None:
        """Note likewise what each lane did; an empty name is nothing."""
        for lane, name in enumerate(names):
            if name:
                self.span(f"lane {lane}", name, begin)

    def wait(self, event: simpy.Event, cause: str) -> Process:
        """Wait, and charge the cycles until then to `cause`."""
        since = self.env.now
        yield event
        self.stalls[cause] += self.env.now - since
        self.span("stalls", cause, since)

    def outputs(self, count: int, layer: Layer) -> None:
        """Count `count` accumulators that become y, each with an access of its own."""
        counts = self.counts
        for name in ("post.requantise", "post.merge", "y.write"):
            counts[name] += count
        if layer.residual:
            counts["residual.read"] += count
        if layer.joined:
            counts["residual.write"] += count
