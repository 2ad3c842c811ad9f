"""Dispatch, bank conflicts and placement against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.layer import Layer, ceil_div
from sinai.common.placement import place_channels
from sinai.sim.work import batches, dispatch, walks


def masks(max_pixels=20, max_channels=24):
    return st.tuples(
        st.integers(1, max_pixels),
        st.integers(1, max_channels),
        st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
        st.integers(0, 2**32 - 1),
    ).map(lambda t: np.random.default_rng(t[3]).random((t[0], t[1])) < t[2])


@given(
    mask=masks(),
    lanes=st.sampled_from([1, 2, 4, 8]),
    window=st.sampled_from([1, 2, 4, 16]),
    accumulators=st.sampled_from([2, 8, 32]),
)
@settings(max_examples=150, deadline=None)
def test_dispatch_by_walking_the_words(mask, lanes, window, accumulators):
    """Each lane walks its words, a pair or an empty word a cycle, until it has R pairs."""
    pixels, channels = mask.shape
    together = 64 // window
    words = ceil_div(ceil_div(channels, lanes), together)
    expected, steps, changes, firsts, lasts = [], [], [], [], []
    for number, first in enumerate(range(0, pixels, window)):
        left = [
            [
                [
                    (row, pixel)
                    for row in range(word * together, (word + 1) * together)
                    for pixel in range(first, min(first + window, pixels))
                    if row * lanes + lane < channels and mask[pixel, row * lanes + lane]
                ]
                for word in range(words)
            ]
            for lane in range(lanes)
        ]
        of_lane = [[row for word in lane for row, _ in word] for lane in left]
        changes.append(sum(len(set(rows)) - 1 for rows in of_lane if rows))
        firsts.append([rows[0] if rows else -1 for rows in of_lane])
        lasts.append([rows[-1] if rows else -1 for rows in of_lane])
        steps.append(0)
        while any(left):
            lists, cycles = [[] for _ in range(lanes)], 0
            while any(left[n] and len(lists[n]) < accumulators for n in range(lanes)):
                cycles += 1
                for n in range(lanes):
                    if left[n] and len(lists[n]) < accumulators:
                        steps[-1] += 1
                        if left[n][0]:
                            lists[n].append(left[n][0].pop(0))
                        if not left[n][0]:
                            left[n].pop(0)
            expected.append(
                (
                    number,
                    cycles,
                    len({pixel for pairs in lists for _, pixel in pairs}),
                    max(map(len, lists)),
                    sum(map(len, lists)),
                    sum(len({row for row, _ in pairs}) for pairs in lists),
                )
            )
    got = dispatch(mask, lanes, window, accumulators)
    rows = zip(got.window, got.scan, got.pixels, got.depth, got.pairs, got.rows, strict=True)
    assert [tuple(map(int, row)) for row in rows] == expected
    assert (got.steps.tolist(), got.changes.tolist()) == (steps, changes)
    assert (got.first_row.tolist(), got.last_row.tolist()) == (firsts, lasts)


def test_parameters_are_read_where_the_row_changes_by_hand():
    """One lane, windows of one pixel: rows 0 1, none, 1, 0 after row 0: 1 and 0 are read."""
    mask = np.array([[1, 1], [0, 0], [0, 1], [1, 0]], dtype=bool)
    dealt, before = dispatch(mask, 1, 1, 8), np.array([0])
    (whole,) = walks(dealt, np.array([0, 4]), before)
    assert (whole.reads, whole.after.tolist()) == (2, [0])
    # As tiles of a window each: from row 0 again, but the last one, which follows row 1 at once.
    tiles = walks(dealt, np.arange(5), before)
    assert [(tile.reads, *tile.after.tolist()) for tile in tiles] == [
        (1, 1),
        (0, 0),
        (1, 1),
        (1, 0),
    ]


@given(mask=masks(), lanes=st.sampled_from([1, 4]), window=st.sampled_from([1, 4]))
@settings(max_examples=50, deadline=None)
def test_tiles_are_cut_from_the_whole(mask, lanes, window):
    """A tile of walks is the walk of the tile alone."""
    side = 2 * window
    mask = mask[: len(mask) // side * side]
    if not len(mask):
        return
    dealt, before = dispatch(mask, lanes, window, 3), np.arange(lanes) - 1
    for at, walk in enumerate(walks(dealt, np.arange(0, len(mask) // window + 1, 2), before)):
        (alone,) = walks(
            dispatch(mask[at * side : (at + 1) * side], lanes, window, 3), np.array([0, 2]), before
        )
        if at and (at + 1) * side == len(mask):
            assert walk[:8] == alone[:8]
        else:
            assert walk[:9] == alone[:9]
            assert walk.after.tolist() == alone.after.tolist()


@given(mask=masks(), lanes=st.sampled_from([2, 4]))
@settings(max_examples=100, deadline=None)
def test_a_wider_window_never_costs_a_beat(mask, lanes):
    """sum of max(X, max L) falls or stays when the window doubles, with accumulators to spare."""
    costs = []
    for window in (1, 2, 4, 8, 16):
        p = dispatch(mask, lanes, window, 1 << 20)
        costs.append(int(np.maximum(p.pixels, p.depth).sum()))
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("columns", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [(3, 1, 1, 8), (3, 2, 1, 9), (1, 2, 0, 8), (7, 2, 3, 10)],
)
def test_bank_conflicts_by_addressing_each_word(kernel, stride, padding, side, columns):
    layer = Layer(
        name="l", c_in=8, c_out=8, kernel=kernel, stride=stride, padding=padding, h_in=side,
        w_in=side, k=8,
    )  # fmt: skip
    got = batches(layer, 0, layer.pixels, columns, 4)
    assert got.beats == 2  # 8 channels in words of 4, for each tap
    for batch in range(len(got.words)):
        for tap in range(layer.taps):
            banks = []
            for pixel in range(batch * columns, min(batch * columns + columns, layer.pixels)):
                y = pixel // layer.w_out * stride - padding + tap // kernel
                x = pixel % layer.w_out * stride - padding + tap % kernel
                if 0 <= y < side and 0 <= x < side:
                    banks.append((y * side + x) % columns)
            assert got.words[batch, tap] == len(banks)
            assert got.conflicts[batch, tap] == max((banks.count(b) for b in banks), default=0)


def test_consecutive_pixels_of_a_stride_1_layer_never_collide():
    """Same padding, stride 1: a tap moves all addresses of a batch by the same amount."""
    layer = Layer(name="l", c_in=16, c_out=8, kernel=3, stride=1, padding=1, h_in=4, w_in=4, k=8)
    assert batches(layer, 0, 16, 8, 16).conflicts.max() == 1


def test_placement_by_hand():
    """Densities 4, 3, 2, 1 on two lanes: 4 and 1 on lane 0, 3 and 2 on lane 1."""
    assert place_channels([1, 2, 3, 4], 2).tolist() == [3, 2, 0, 1]


@given(
    density=st.lists(st.floats(0, 1), min_size=1, max_size=40), lanes=st.sampled_from([1, 2, 4, 8])
)
@settings(deadline=None)
def test_placement_is_a_permutation(density, lanes):
    assert sorted(place_channels(density, lanes)) == list(range(len(density)))
