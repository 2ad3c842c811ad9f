"""EXACT of the unstructured machine: passes from the scanner, x words into the window, issues.

Pass i, in the order of the scanner, takes scan_i cycles to be found and has two buffers:

    se[i] = max(se[i-1], ce[i-2], selected) + scan_i

For each beat of a pass, X x words enter the half of the window that the beat before the last has
left, and the fullest lane issues L pairs:

    fe[u] = max(fe[u-1], ie[u-2], se[pass]) + X
    ie[u] = max(ie[u-1], fe[u]) + L          ce[i] = ie of the last beat of pass i

Times are cycles since the launch of the part.
"""

from __future__ import annotations

from dataclasses import dataclass

from .stream import Clock

__all__ = ["Scanner"]


@dataclass
class Scanner:
    """State of the recurrences: se of the last pass, ce of the last two, fe and ie likewise."""

    clock: Clock
    scanned: int = 0
    ended: int = 0
    ended_before: int = 0
    filled: int = 0
    left: int = 0
    left_before: int = 0

    def hold_until(self, time: int) -> None:
        """Nothing is scanned before `time`."""
        self.scanned = max(self.scanned, time)

    def run(
        self, scans: list[int], widths: list[int], depths: list[int], beats: int
    ) -> tuple[int, int]:
        """Issue the passes of a tile; return its first issue cycle and its last, -1 without any.

        Its last is the last issue, or that of seeing the last window where that comes later.
        `scans`, `widths` (X) and `depths` (L) have an entry for every stretch of the scanner; one
        without pairs (L = 0) publishes nothing, and the scanner goes on to the next.
        """
        clock = self.clock
        entered = now = clock.now
        busy = scan_stall = xbank = 0
        ended, before, filled = self.ended, self.ended_before, self.filled
        left, left_before = self.left, self.left_before
        scanned = self.scanned
        first = -1
        fresh = True  # The scanner has a buffer to look for.
        for scan, width, depth in zip(scans, widths, depths, strict=True):
            scanned = (max(scanned, before) if fresh else scanned) + scan
            fresh = depth > 0
            if not fresh:
                continue
            if scanned > now:
                scan_stall += scanned - now
                now = scanned
            # Beat by beat until the rest of the pass has a closed form.
            filled = max(filled, scanned)
            todo = beats
            while todo:
                filled = max(filled, left_before) + width
                start = max(now, filled)
                xbank += start - now
                now = start + depth
                if first < 0:
                    first = start
                ready, left_before, left = left, left, now
                todo -= 1
                if todo and depth >= width:
                    # Bound by the issue: no beat waits for its words again.
                    now += depth * todo
                    filled = max(filled, ready) + width * todo
                    if todo > 1:
                        filled = max(filled, left + (todo - 2) * depth + width)
                    left_before, left, todo = now - depth, now, 0
                elif todo and start == filled and filled >= ready:
                    # Bound by the words: every beat waits for them.
                    xbank += (width - depth) * todo
                    now += width * todo
                    filled += width * todo
                    left_before, left, todo = now - width, now, 0
            busy += depth * beats
            before, ended = ended, now
        clock.now, clock.busy = now, clock.busy + busy
        clock.stalls["scan"] += scan_stall
        clock.stalls["xbank"] += xbank
        self.scanned, self.ended, self.ended_before = scanned, ended, before
        self.filled, self.left, self.left_before = filled, left, left_before
        # The scanner must have seen the last window before the sequencer moves on; a step without
        # any pass takes a cycle to be seen as over.
        clock.wait({"scan": max(scanned, entered + (first < 0))})
        return first, clock.now - 1 if first >= 0 else -1
