"""The walk over windows against scanner, lanes and output FIFOs stepped cycle by cycle."""

from collections import deque

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.sim.stream import Clock
from sinai.sim.unstructured import walk
from sinai.sim.work import dispatch


def stepped(mask, lanes, window, accumulators, beats, scan):
    """Step the machine; return (end of the last issue or scan, busy, when the FIFOs are empty)."""
    pixels, channels = mask.shape
    windows = []
    for first in range(0, pixels, window):
        pairs = [[] for _ in range(lanes)]
        for channel in range(channels):
            for pixel in range(first, min(first + window, pixels)):
                if mask[pixel, channel]:
                    pairs[channel % lanes].append(pixel)
        depth = max(map(len, pairs))
        windows.append(
            [
                [lane[at : at + accumulators] for lane in pairs]
                for at in range(0, depth, accumulators)
            ]
        )
    share = min(4, lanes)
    fifos = [deque() for _ in range(lanes)]
    scanned = computed = cycle = busy = 0
    scanning = 0
    todo = None  # passes left of the window being computed
    beat = slot = 0
    last = 0
    while computed < len(windows):
        if not scanning and scanned < len(windows) and scanned - computed < 2:
            scanning = scan
            if not scan:
                scanned += 1
        if todo is None and computed < scanned:
            todo = list(windows[computed])
            if not todo:
                # An empty window is over as soon as it is scanned.
                computed += 1
                last = max(last, cycle)
                todo = None
                continue
        if todo:
            lanes_now = todo[0]
            depth = max(map(len, lanes_now))
            length = max(depth, len({p for lane in lanes_now for p in lane}), 1)
            blocked = beat == beats - 1 and slot == 0 and any(fifos)
            if not blocked:
                if slot < depth:
                    busy += 1
                    if beat == beats - 1:
                        for lane, pairs in enumerate(lanes_now):
                            if slot < len(pairs):
                                fifos[lane].append(slot)
                slot += 1
                if slot == length:
                    slot = 0
                    beat += 1
                if beat == beats:
                    beat = 0
                    todo.pop(0)
                    if not todo:
                        todo = None
                        computed += 1
                        last = cycle + 1
        # Each sub-bank takes one output of its four lanes a cycle.
        for bank in range(0, lanes, share):
            for lane in range(bank, bank + share):
                if fifos[lane]:
                    fifos[lane].popleft()
                    break
        if scanning:
            scanning -= 1
            if not scanning:
                scanned += 1
        cycle += 1
    empty = cycle
    while any(fifos):
        for bank in range(0, lanes, share):
            for lane in range(bank, bank + share):
                if fifos[lane]:
                    fifos[lane].popleft()
                    break
        empty += 1
    return last, busy, empty


@given(
    shape=st.tuples(st.integers(1, 16), st.integers(1, 20)),
    density=st.sampled_from([0.02, 0.1, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    lanes=st.sampled_from([4, 8]),
    window=st.sampled_from([1, 2, 4]),
    accumulators=st.sampled_from([2, 8]),
    beats=st.integers(1, 6),
    scan=st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_walk_equals_stepping(shape, density, seed, lanes, window, accumulators, beats, scan):
    mask = np.random.default_rng(seed).random(shape) < density
    passes = dispatch(mask, lanes, window, accumulators)
    clock = Clock()
    _, fifo_free = walk(clock, passes, beats, scan, 0, 0, 1)
    end, busy, empty = stepped(mask, lanes, window, accumulators, beats, scan)
    assert (clock.now, clock.busy) == (end, busy)
    if mask.any():
        assert max(fifo_free, clock.now) == max(empty, clock.now)
