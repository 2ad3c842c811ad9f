# amaranth: UnusedElaboratable=no
"""Ranks of eight: by hand, and any groups in any interleaving against the integer arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import select_rank, select_threshold
from sinai.common.contract import CONTRACT
from sinai.hw.ranker import GROUP, Ranker

OUTPUTS = ["o_valid", "o_slot", "o_mask"]
SLOTS = 4
EXTREMES = [-32768, -32767, -1, 0, 1, 32766, 32767]
INT16 = st.sampled_from(EXTREMES) | st.integers(-32768, 32767)
THETA = st.sampled_from([-32768, -32767, 0, 32767, 32768]) | st.integers(-32768, 32768)


def feed(groups, order, *, essential=0, theta=0, use_rank=True):
    """Cycles that give, for each number in `order`, the next row of the group in that slot.

    `groups` maps a slot to its groups, one after the other: lists of up to eight values, the rest
    of the rows do not exist. None in `order` is an idle cycle, which holds the layer's settings.
    """
    layer = {"essential": essential, "theta": theta, "use_rank": use_rank}
    seen = dict.fromkeys(groups, 0)
    cycles = []
    for slot in order:
        if slot is None:
            cycles.append(layer)
            continue
        index, row = divmod(seen[slot], GROUP)
        seen[slot] += 1
        values = groups[slot][index]
        exists = row < len(values)
        z = values[row] if exists else 32767
        ports = {"valid": 1, "slot": slot, "row": row, "exists": exists, "z": z}
        cycles.append(layer | ports)
    return cycles, layer


def masks(bench, groups, order, **settings):
    """The (cycle, slot, mask) of every mask."""
    cycles, layer = feed(groups, order, **settings)
    seen = bench([*cycles, *[layer] * (bench.dut.latency + 2)])
    return [(cycle, slot, mask) for cycle, (valid, slot, mask) in enumerate(seen) if valid]


def mask_of(kept):
    return sum(1 << int(n) for n in np.flatnonzero(kept))


def expected(groups, order, latency=CONTRACT.rank, *, essential=0, theta=0, use_rank=True):
    """The same from the arithmetic."""
    seen = dict.fromkeys(groups, 0)
    found = []
    for cycle, slot in enumerate(order):
        if slot is None:
            continue
        seen[slot] += 1
        if seen[slot] % GROUP == 0:
            z = np.array(groups[slot][seen[slot] // GROUP - 1])
            kept = select_rank(z, essential) if use_rank else select_threshold(z, theta)
            found.append((cycle + latency, slot, mask_of(kept)))
    return found


@pytest.fixture(scope="module")
def unit(bench):
    return bench(Ranker(SLOTS), OUTPUTS)


@pytest.mark.parametrize(
    ("values", "essential", "mask"),
    [
        pytest.param([8, 7, 6, 5, 4, 3, 2, 1], 3, 0b00000111, id="descending"),
        pytest.param([1, 2, 3, 4, 5, 6, 7, 8], 3, 0b11100000, id="ascending"),
        pytest.param([5, 1, 9, 2, 9, 3, 0, 4], 2, 0b00010100, id="the two nines"),
        pytest.param([5, 1, 9, 2, 9, 3, 0, 9], 2, 0b00010100, id="the first two of three"),
        pytest.param([0] * 8, 5, 0b00011111, id="all equal: the first"),
        pytest.param([-32768] * 8, 8, 0b11111111, id="all, at the smallest"),
        pytest.param([32767] * 8, 0, 0, id="none, at the largest"),
        pytest.param([32767, -32768] * 4, 4, 0b01010101, id="both saturations"),
        pytest.param([-32768, 32767] * 4, 5, 0b10101011, id="and the first of the smallest"),
        pytest.param([-1, 0, 1], 2, 0b110, id="three rows"),
        pytest.param([-32768] * 3, 8, 0b111, id="three rows, all of them"),
        pytest.param([-32768], 1, 0b1, id="one row"),
    ],
)
def test_rank_by_hand(unit, values, essential, mask):
    seen = masks(unit, {2: [values]}, [2] * 8, essential=essential)
    assert seen == [(7 + CONTRACT.rank, 2, mask)]


@pytest.mark.parametrize(
    ("values", "theta", "mask"),
    [
        pytest.param([5, 3, 4, 2, 9, -9, 4, 0], 4, 0b01010101, id="those that reach 4"),
        pytest.param([32767] * 8, 32768, 0, id="none reaches 32768"),
        pytest.param([-32768] * 8, -32768, 0b11111111, id="all reach -32768"),
        pytest.param([32767] * 5, -32768, 0b00011111, id="five rows"),
    ],
)
def test_threshold_by_hand(unit, values, theta, mask):
    seen = masks(unit, {0: [values]}, [0] * 8, theta=theta, use_rank=False)
    assert seen == [(7 + CONTRACT.rank, 0, mask)]


@pytest.mark.parametrize("pair", [1, 2])
def test_order_of_a_sub_block(unit, pair):
    """Row pairs, and within one all batches, two rows of a batch back to back or all in turn."""
    random = np.random.default_rng(2)
    groups = {slot: [random.integers(-3, 4, GROUP).tolist()] for slot in range(SLOTS)}
    order = [slot for _ in range(GROUP // pair) for slot in range(SLOTS) for _ in range(pair)]
    assert masks(unit, groups, order, essential=3) == expected(groups, order, essential=3)


@st.composite
def scenes(draw):
    """Groups of every slot, whole or partial, from few or any values, and an interleaving."""
    values = draw(st.sampled_from([INT16, st.integers(-2, 2), st.sampled_from([-32768, 32767])]))
    groups = {
        slot: draw(st.lists(st.lists(values, min_size=1, max_size=GROUP), min_size=0, max_size=2))
        for slot in range(SLOTS)
    }
    turns = [slot for slot, listed in groups.items() for _ in range(GROUP * len(listed))]
    turns += [None] * draw(st.integers(0, 8))
    order = draw(st.permutations(turns)) if draw(st.booleans()) else turns
    return groups, order


@given(scene=scenes(), essential=st.integers(0, 8), theta=THETA, use_rank=st.booleans())
@settings(max_examples=150, deadline=None)
def test_agrees_with_reference(unit, scene, essential, theta, use_rank):
    chosen = {"essential": essential, "theta": theta, "use_rank": use_rank}
    assert masks(unit, *scene, **chosen) == expected(*scene, **chosen)


@given(values=st.lists(INT16, min_size=1, max_size=GROUP), essential=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_partial_groups_keep_as_many_as_they_have(unit, values, essential):
    """Exactly min(N, c) of c rows, whatever the values."""
    ((_, _, mask),) = masks(unit, {1: [values]}, [1] * 8, essential=essential)
    assert mask.bit_count() == min(essential, len(values))


@pytest.mark.parametrize("stages", [0, 1, 2, 3, 6])
def test_latency_follows_the_contract(bench, stages):
    """Values of one slot in consecutive cycles see each other, at every depth."""
    dut = Ranker(SLOTS, contract=replace(CONTRACT, rank=stages))
    assert dut.latency == stages
    groups = {3: [[1, 2, 3, 4, 4, 3, 2, 1], [4, 3, 2, 1, 1, 2, 3, 4]]}
    order = [3] * 16
    assert masks(bench(dut, OUTPUTS), groups, order, essential=3) == [
        (7 + stages, 3, 0b00011100),
        (15 + stages, 3, 0b10000011),
    ]


@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_every_slot_has_its_own_group(bench, slots):
    """All slots in turn, row by row; row `slot` modulo 8 is the largest of the slot."""
    groups = {slot: [[int(row == slot % GROUP) for row in range(GROUP)]] for slot in range(slots)}
    order = list(range(slots)) * GROUP
    seen = masks(bench(Ranker(slots), OUTPUTS), groups, order, essential=1)
    assert [(slot, mask) for _, slot, mask in seen] == [
        (slot, 1 << slot % GROUP) for slot in range(slots)
    ]


def test_names_of_modules():
    assert Ranker(4).module_name == "sinai_ranker_4"


@pytest.mark.parametrize("slots", [0, 17])
def test_out_of_range(slots):
    with pytest.raises(ValueError, match=f"between 1 and 16, not {slots}"):
        Ranker(slots)
