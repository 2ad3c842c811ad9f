"""The weight stream: a double-buffered register that loads one unit while the last one computes.

For unit i, with load time lw and compute time c (cycles):

    le[i] = max(le[i-1], ce[i-2]) + lw          loaded, once the half it goes to is free
    ce[i] = max(ce[i-1], le[i], gates) + c      computed

A run of equal units settles after at most two of them into a state whose rest has a closed form,
which is what makes the simulator fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.contract import STALL_CAUSES

__all__ = ["Clock", "WeightStream"]


@dataclass
class Clock:
    """Issue time of the vector unit, with every cycle since `now = 0` accounted for.

    `now` is the end of the last issue; `busy` counts issue cycles, `stalls` the others by cause, so
    busy plus all stalls equals `now`.
    """

    now: int = 0
    busy: int = 0
    stalls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STALL_CAUSES, 0))

    def wait(self, gates: dict[str, int]) -> None:
        """Advance to the latest of the gates (cause to release time), charging each idle cycle to
        the first cause, in order of precedence, that still holds in it."""
        for cause in STALL_CAUSES:
            release = gates.get(cause, 0)
            if release > self.now:
                self.stalls[cause] += release - self.now
                self.now = release

    def issue(self, cycles: int) -> None:
        self.now += cycles
        self.busy += cycles

    def stall(self, cause: str, cycles: int) -> None:
        self.now += cycles
        self.stalls[cause] += cycles


@dataclass
class WeightStream:
    """State of the two recurrences: le of the last unit, ce of the last two."""

    clock: Clock
    loaded: int = 0
    ended: int = 0
    ended_before: int = 0
    started: bool = False

    def hold_until(self, time: int) -> None:
        """No load may start before `time` (data not on chip, or the port taken)."""
        self.loaded = max(self.loaded, time)

    def run(
        self,
        count: int,
        load: int,
        busy: int,
        idle: int,
        gates: dict[str, int],
        cause: str = "xbank",
    ) -> None:
        """Pass `count` equal units: `load` cycles to load, `busy` cycles of issue and then `idle`
        cycles of `cause` to compute. `gates` hold back the first unit."""
        cost = busy + idle
        clock = self.clock
        while count > 0:
            loaded = max(self.loaded, self.ended_before) + load
            ready = self.ended  # ce[i-1]
            waits = dict(gates)
            waits["shallow" if self.started else "fill"] = max(
                loaded, waits.get("shallow" if self.started else "fill", 0)
            )
            clock.wait(waits)
            start = clock.now
            self._pass(busy, idle, cause)
            self.started = True
            self.loaded, self.ended_before, self.ended = loaded, ready, clock.now
            gates = {}
            count -= 1
            if count == 0:
                break
            if cost >= load and start >= loaded and start == ready:
                # Compute-bound: no unit will wait again.
                self._pass(busy * count, idle * count, cause)
                self.ended = clock.now
                self.ended_before = self.ended - cost
                self.loaded = self.ended_before - cost + load
                return
            if cost <= load and loaded >= ready and start == loaded:
                # Load-bound: every unit waits for its load.
                clock.stall("shallow", (load - cost) * count)
                self._pass(busy * count, idle * count, cause)
                self.loaded += load * count
                self.ended = clock.now
                self.ended_before = self.ended - load
                return

    def _pass(self, busy: int, idle: int, cause: str) -> None:
        self.clock.issue(busy)
        if idle:
            self.clock.stall(cause, idle)
