"""Closed forms of the streams against one unit at a time; causes of waits by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.sim.scanner import Scanner
from sinai.sim.stream import Clock, Stream, Unit

UNIT = st.builds(
    Unit,
    busy=st.integers(1, 12),
    bubbles=st.integers(0, 2),
    late=st.integers(0, 3),
    fetch=st.integers(1, 6),
    last=st.integers(1, 4),
)
RUN = st.tuples(st.integers(1, 12), st.integers(1, 9), UNIT, st.integers(0, 120))


@given(runs=st.lists(RUN, min_size=1, max_size=6), begin=st.integers(0, 9))
@settings(max_examples=500, deadline=None)
def test_run_of_equal_units_is_the_units_one_by_one(runs, begin):
    whole, single = Stream(Clock()), Stream(Clock())
    ahead = 1
    for stream in (whole, single):
        stream.hold_until(begin)
    for count, load, unit, gate in runs:
        first = whole.run(count, load, unit, {"rpu": gate}, ahead)
        starts = [single.run(1, load, unit, {"rpu": gate}, ahead)]
        starts += [single.run(1, load, unit, {}, unit.last) for _ in range(count - 1)]
        ahead = unit.last
        assert first == starts[0]
        assert whole == single


def naive_units(units, begin):
    """ce and le by the recurrences as they are written; gates in the past."""
    loaded, ended = [], []
    issue_end, issue_last = 0, -1
    for index, (load, unit) in enumerate(units):
        free = ended[index - 2] if index > 1 else begin
        loaded.append(max(loaded[-1] if loaded else begin, free) + load)
        start = max(issue_end, issue_last + unit.fetch, loaded[-1])
        ended.append(start + unit.cycles)
        issue_end, issue_last = ended[-1], ended[-1] - unit.last
    return loaded, ended


@given(
    runs=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), UNIT), min_size=1, max_size=5),
    begin=st.integers(0, 9),
)
@settings(max_examples=300, deadline=None)
def test_run_follows_the_recurrences(runs, begin):
    stream, ahead = Stream(Clock()), 1
    stream.hold_until(begin)
    units = []
    for count, load, unit in runs:
        stream.run(count, load, unit, {}, ahead)
        ahead = unit.last
        units += [(load, unit)] * count
    loaded, ended = naive_units(units, begin)
    assert (stream.loaded, stream.ended, stream.clock.now) == (loaded[-1], ended[-1], ended[-1])
    assert stream.clock.busy + sum(stream.clock.stalls.values()) == stream.clock.now


PASS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))


@given(
    tiles=st.lists(
        st.tuples(st.lists(PASS, min_size=1, max_size=6), st.integers(0, 60)), max_size=4
    ),
    beats=st.integers(1, 9),
)
@settings(max_examples=500, deadline=None)
def test_passes_follow_the_recurrences(tiles, beats):
    """se, fe and ie of every pass and beat, one by one."""
    scanner = Scanner(Clock())
    scans, fills, issues, passes = [0], [0], [0, 0], [0, 0]
    now = 0
    for stretches, selected in tiles:
        scanner.clock.wait({"select": selected})
        scanner.hold_until(selected)
        scanner.run(*(list(column) for column in zip(*stretches, strict=True)), beats)
        now = max(now, selected)
        entered, any_pass, waited = now, False, False
        for scan, width, depth in stretches:
            if not waited:
                scans.append(max(scans[-1], selected, passes[-2]))
            scans[-1] += scan
            waited = depth == 0
            if waited:
                continue
            for _ in range(beats):
                fills.append(max(fills[-1], issues[-2], scans[-1]) + width)
                issues.append(max(issues[-1], now, fills[-1]) + depth)
            now = issues[-1]
            passes.append(now)
            any_pass = True
        now = max(now, scans[-1], entered + (not any_pass))
        assert scanner.clock.now == now
        assert scanner.clock.busy + sum(scanner.clock.stalls.values()) == now


@pytest.mark.parametrize(
    ("count", "load", "busy", "end"),
    [
        pytest.param(10, 8, 16, 8 + 160, id="deep block: only the first load shows"),
        pytest.param(10, 8, 2, 80 + 2, id="shallow block: ten loads and the last compute"),
        pytest.param(1, 8, 3, 11, id="one unit: load then compute"),
    ],
)
def test_runs_by_hand(count, load, busy, end):
    clock = Clock()
    Stream(clock).run(count, load, Unit(busy), {})
    assert clock.now == end
    assert clock.busy == count * busy


def test_fetch_longer_than_the_last_item_shows_between_units_by_hand():
    """Two cycles of issue at the end of a unit hide two of five fetch cycles of the next."""
    clock = Clock()
    Stream(clock).run(3, 1, Unit(busy=4, fetch=5, last=2), {})
    # First fetch of five cycles, the last of which issues; then 4 + 3 a unit.
    assert clock.now == 4 + 4 + 2 * (3 + 4)
    assert clock.stalls["xbank"] == 4 + 2 * 3


def test_first_cause_in_order_gets_the_cycle():
    """dma until 5, rpu until 3, select until 9: 5 cycles are dma, none rpu, 4 select."""
    clock = Clock()
    clock.wait({"select": 9, "rpu": 3, "dma": 5})
    assert {cause: n for cause, n in clock.stalls.items() if n} == {"dma": 5, "select": 4}
    assert clock.now == 9
