"""The closed forms of the weight stream against a machine that is stepped cycle by cycle."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.contract import STALL_CAUSES
from sinai.sim.stream import Clock, WeightStream


def stepped(units, begin):
    """Step loader and vector unit one cycle at a time; return (end, busy, idle cycles by cause).

    `units`: (load, busy, idle, gate) of each unit. Two halves; a half is loaded when empty, in
    order; a unit computes when its half is full, its gate open and the unit before it done.
    """
    loads = [unit[0] for unit in units]
    full_at = {}
    loading = None  # (unit, cycles left)
    next_load, next_unit, left, idle_left = 0, 0, 0, 0
    tally = dict.fromkeys(STALL_CAUSES, 0)
    busy = freed = cycle = 0
    while next_unit < len(units) or left or idle_left:
        # Loader: starts a load when one of the two halves is free.
        if loading is None and next_load < len(loads) and cycle >= begin and next_load - freed < 2:
            loading = [next_load, loads[next_load]]
            next_load += 1
        if not left and not idle_left and next_unit < len(units):
            _, work, idle, gate = units[next_unit]
            if next_unit in full_at and cycle >= max(full_at[next_unit], gate):
                left, idle_left = work, idle
                next_unit += 1
        if left:
            left -= 1
            busy += 1
        elif idle_left:
            idle_left -= 1
            tally["xbank"] += 1
        else:
            gate = units[next_unit][3]
            if cycle < gate:
                tally["rpu"] += 1
            else:
                tally["fill" if next_unit == 0 else "shallow"] += 1
        if loading:
            loading[1] -= 1
            if not loading[1]:
                full_at[loading[0]] = cycle + 1
                loading = None
        if not left and not idle_left:
            freed = next_unit
        cycle += 1
    return cycle, busy, tally


RUN = st.tuples(
    st.integers(1, 12),  # units
    st.integers(1, 9),  # load
    st.integers(1, 12),  # busy
    st.integers(0, 3),  # idle
    st.integers(0, 120),  # gate
)


@given(runs=st.lists(RUN, min_size=1, max_size=6), begin=st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_closed_form_equals_stepping(runs, begin):
    """Any sequence of runs: same end, same busy cycles, every idle cycle with the same cause."""
    clock = Clock()
    stream = WeightStream(clock)
    stream.hold_until(begin)
    units = []
    for count, load, busy, idle, gate in runs:
        stream.run(count, load, busy, idle, {"rpu": gate})
        units += [(load, busy, idle, gate)] + [(load, busy, idle, 0)] * (count - 1)
    end, busy, tally = stepped(units, begin)
    assert (clock.now, clock.busy, clock.stalls) == (end, busy, tally)


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
    WeightStream(clock).run(count, load, busy, 0, {})
    assert clock.now == end
    assert clock.busy == count * busy


def test_first_cause_in_order_gets_the_cycle():
    """dma until 5, rpu until 3, select until 9: 5 cycles are dma, none rpu, 4 select."""
    clock = Clock()
    clock.wait({"select": 9, "rpu": 3, "dma": 5})
    assert {cause: n for cause, n in clock.stalls.items() if n} == {"dma": 5, "select": 4}
    assert clock.now == 9
