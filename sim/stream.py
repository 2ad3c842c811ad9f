"""Streams of operands: a double-buffered register that is loaded ahead of the issue.

A unit is what one half of the register serves: a beat of eight weight words, a row-beat, the x
words of a window. It is loaded in `load` cycles into the half that the unit before the last has
left, and issues items. Item q of a unit has n issue cycles and f cycles in which its own operands
are fetched, one item ahead:

    s[q] = max(s[q-1] + n[q-1], max(s[q-1] + 1, gate) + f[q] - 1, le)     first issue
    le[i] = max(le[i-1], ce[i-2]) + load                                  unit i is loaded
    ce[i] = last issue of unit i + 1

Times are cycles since the launch of the part. Between equal units only the first fetch and the last
item matter, so a run of them settles after at most a few into a state whose rest has a closed form:
that is what makes the simulator fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.contract import STALL_CAUSES

__all__ = ["Clock", "Stream", "Unit"]


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
        if max(gates.values()) <= self.now:
            return
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


@dataclass(frozen=True, slots=True)
class Unit:
    """Cycles of a unit from its first issue on.

    Parameters
    ----------
    busy : int
        Cycles in which something issues.
    bubbles : int
        Cycles of items without any essential neuron.
    late : int
        Cycles between items in which the fetch of the next one is not done.
    fetch : int
        f of the first item.
    last : int
        n of the last item, the head start of the next unit's first fetch.
    """

    busy: int
    bubbles: int = 0
    late: int = 0
    fetch: int = 1
    last: int = 1

    @property
    def cycles(self) -> int:
        return self.busy + self.bubbles + self.late


@dataclass
class Stream:
    """State of the recurrences: le of the last unit, ce of the last two, n of the last item.

    `starved` is the cause of a wait for a load.
    """

    clock: Clock
    starved: str = "shallow"
    loaded: int = 0
    ended: int = 0
    ended_before: int = 0

    def hold_until(self, time: int) -> None:
        """No load may start before `time`: nothing has been launched, or the port is taken."""
        self.loaded = max(self.loaded, time)

    def run(
        self,
        count: int,
        load: int,
        unit: Unit,
        gates: dict[str, int],
        head_start: int = 1,
        starved: str = "",
    ) -> int:
        """Pass `count` equal units and return the first issue cycle.

        `gates` (cause to time) hold back the first fetch; `head_start` is n of the item before the
        first; `starved` names the cause of a wait for the first load, if it is not that of the
        stream.
        """
        clock = self.clock
        cycles, between = unit.cycles, max(0, unit.fetch - unit.last)
        period = cycles + between
        first = -1
        while count > 0:
            ready = self.ended  # ce[i-1]
            loaded = max(self.loaded, self.ended_before) + load
            if first < 0:
                opened = max(clock.now - head_start + 1, *gates.values(), 0)
                fetched = opened + unit.fetch - 1  # not before any gate
                if fetched > clock.now or loaded > clock.now:
                    waits = dict(gates)
                    waits["xbank"] = max(fetched, waits.get("xbank", 0))
                    cause = starved or self.starved
                    waits[cause] = max(loaded, waits.get(cause, 0))
                    clock.wait(waits)
                first = start = clock.now
            else:
                if between or loaded > clock.now:
                    clock.wait({"xbank": ready + between, self.starved: loaded})
                start = clock.now
            self._pass(unit, 1)
            self.loaded, self.ended_before, self.ended = loaded, ready, clock.now
            count -= 1
            if count and period >= load:
                # Bound by the issue: no unit waits for its load again.
                clock.stalls["xbank"] += between * count
                clock.now += between * count
                done = self.ended
                self._pass(unit, count)
                self.ended = clock.now
                self.ended_before = self.ended - period if count > 1 else done
                self.loaded = max(loaded, ready) + count * load
                if count > 1:
                    self.loaded = max(self.loaded, done + (count - 2) * period + load)
                break
            if count and loaded >= ready and start == loaded:
                # Bound by the load: every unit waits for it.
                clock.stalls["xbank"] += between * count
                clock.stalls[self.starved] += (load - period) * count
                clock.now += (load - cycles) * count
                self._pass(unit, count)
                self.loaded = loaded + load * count
                self.ended = clock.now
                self.ended_before = self.ended - load
                break
        return first

    def _pass(self, unit: Unit, count: int) -> None:
        clock = self.clock
        clock.now += unit.cycles * count
        clock.busy += unit.busy * count
        if unit.bubbles:
            clock.stalls["scan"] += unit.bubbles * count
        if unit.late:
            clock.stalls["xbank"] += unit.late * count
