"""What a tile asks of the machine: passes of the dispatcher (U), batches of pixels (S).

Everything here is counted from masks and geometry, vectorised; time is added by the
recurrences of `stream` and `scanner`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.layer import Layer, ceil_div

__all__ = ["Batches", "Counts", "Passes", "Walk", "batches", "dispatch", "dispatch_all", "walks"]

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Passes:
    """What the scanners find in windows of an unstructured part, stretch by stretch, in order.

    A stretch is a pass, or the rest of a window in which no lane finds a pair. One entry each in
    scan: cycles of the slowest lane's scanner. pixels: X, pixels of the window that need their x
    word. depth: L, largest number of pairs of a lane; 0 publishes nothing. pairs: pairs of all
    lanes. rows: distinct rows of all lanes, the weight words read a beat.

    window: index of the window of each stretch. steps: cycles of all lanes' scanners. first_row,
    last_row: (windows, lanes) of a lane's pairs, -1 without any. changes: pairs of a window whose
    row differs from the pair before in it, the first one apart.
    """

    window: Counts
    scan: Counts
    pixels: Counts
    depth: Counts
    pairs: Counts
    rows: Counts
    steps: Counts
    changes: Counts
    first_row: Counts
    last_row: Counts


class Walk(NamedTuple):
    """What the scanners find in a tile: scan, pixels and depth of its stretches, then sums.

    pairs: of all lanes. issues: of the fullest lane of each pass. rows: distinct ones, of all lanes
    and passes. words: pixels of all passes. steps: cycles of all lanes' scanners. reads: parameters
    read, a lane's only where its row changes. after: row of each lane's last output.
    """

    scan: list[int]
    pixels: list[int]
    depth: list[int]
    pairs: int
    issues: int
    rows: int
    words: int
    steps: int
    reads: int
    after: Counts


def walks(passes: Passes, first: Counts, before: Counts) -> list[Walk]:
    """Cut passes into those of tiles, of which number n has the windows `first`[n] to
    `first`[n + 1] - 1. `before` (lanes,) is the row of each lane's last output before each tile, -1
    for none; but the last of several tiles follows the one before it at once."""

    def sums(values: Counts, bounds: Counts) -> list[int]:
        return np.diff(np.concatenate([[0], values.cumsum()])[bounds]).tolist()

    windows, lanes = passes.first_row.shape
    begin = first[:-1].copy()
    begin[-1] = begin[max(0, len(begin) - 2)]
    # For each window and lane the last window up to it that has a pair of the lane.
    index = np.where(passes.first_row >= 0, np.arange(windows)[:, None], -1)
    latest = np.maximum.accumulate(index, axis=0)
    earlier = np.concatenate([np.full((1, lanes), -1), latest[:-1]])
    column = np.arange(lanes)

    def row(window: Counts, start: Counts) -> Counts:
        return np.where(window >= start[:, None], passes.last_row[window, column], before)

    prior = row(earlier, np.repeat(begin, np.diff(first)))
    changed = (passes.first_row >= 0) & (passes.first_row != prior)
    cuts = np.searchsorted(passes.window, first)
    stretches = [slice(*bounds) for bounds in pairwise(cuts.tolist())]
    lists = [
        [values[stretch] for stretch in stretches]
        for values in (passes.scan.tolist(), passes.pixels.tolist(), passes.depth.tolist())
    ]
    totals = [
        sums(values, cuts) for values in (passes.pairs, passes.depth, passes.rows, passes.pixels)
    ]
    totals += [sums(passes.steps, first), sums(changed.sum(1) + passes.changes, first)]
    after = row(latest[first[1:] - 1], begin)
    return [Walk(*values) for values in zip(*lists, *totals, after, strict=True)]


def dispatch(
    mask: Bools, lanes: int, window: int, accumulators: int, word_bits: int = 64
) -> Passes:
    """Deal the essential pairs of a tile to lanes and passes.

    `mask` is (pixels, channels) in placement order: channel j is row j // lanes of lane
    j mod lanes.
    Windows of `window` pixels. A lane walks the words of a window, word_bits / window rows of all
    its pixels each, row by row: a cycle for each pair, and one for a word without any. It stops at
    `accumulators` pairs; when every lane has stopped or is at the end, that is a pass.
    """
    pixels, channels = mask.shape
    together = word_bits // window
    windows = ceil_div(pixels, window)
    words = ceil_div(ceil_div(channels, lanes), together)
    rows = words * together
    padded = np.zeros((windows * window, rows * lanes), dtype=bool)
    padded[:pixels, :channels] = mask
    # (windows, lanes, rows, window): the order in which a lane walks its pairs.
    pairs = np.ascontiguousarray(padded.reshape(windows, window, rows, lanes).transpose(0, 3, 2, 1))
    of_word = pairs.reshape(windows, lanes, words, -1).sum(-1, dtype=np.int32)
    per_lane = of_word.sum(-1)
    empty = of_word == 0
    total = per_lane + empty.sum(-1)
    deepest = int(per_lane.max(initial=0))
    levels = 1 + deepest // accumulators
    if deepest <= accumulators:
        level = None
    else:
        ordinal = pairs.reshape(windows, lanes, -1).cumsum(-1, dtype=np.int32).reshape(pairs.shape)
        level = (ordinal - 1) // accumulators
    found = of_word.cumsum(-1)
    walked = np.zeros_like(per_lane)
    columns = []
    for n in range(levels):
        most = (n + 1) * accumulators
        # Up to the pair that fills the pass, or the end; empty words before it are walked too.
        reached = np.minimum(per_lane, most) + (empty & (found < most)).sum(-1)
        here = pairs if level is None else pairs & (level == n)
        if n * accumulators >= deepest:
            described = [np.zeros(windows, dtype=np.int64)] * 4
        else:
            described = _describe(here)
        columns.append(((reached - walked).max(-1), *described))
        walked = reached
    assert (walked == total).all()
    # (windows, stretches), flattened in the order of execution; what takes no cycle is none.
    stacked = [np.stack(values, axis=1) for values in zip(*columns, strict=True)]
    keep = stacked[0] > 0
    index = np.broadcast_to(np.arange(windows)[:, None], keep.shape)
    used = pairs.any(3)
    some = used.any(2)
    first_row = np.where(some, used.argmax(2), -1)
    last_row = np.where(some, rows - 1 - used[:, :, ::-1].argmax(2), -1)
    return Passes(
        index[keep],
        *(values[keep] for values in stacked),
        total.sum(-1),
        used.sum((1, 2)) - some.sum(1),
        first_row,
        last_row,
    )


def _describe(pairs: Bools) -> tuple[Counts, Counts, Counts, Counts]:
    """pixels, depth, pairs and rows of each window of one pass."""
    pixels = pairs.any((1, 2)).sum(-1)
    per_lane = pairs.sum((2, 3), dtype=np.int64)
    return pixels, per_lane.max(-1), per_lane.sum(-1), pairs.any(3).sum((1, 2))


@lru_cache(maxsize=64)
def dispatch_all(
    pixels: int, channels: int, lanes: int, window: int, accumulators: int, word_bits: int
) -> Passes:
    """The same where every pair is essential."""
    mask = np.ones((pixels, channels), dtype=bool)
    return dispatch(mask, lanes, window, accumulators, word_bits)


@dataclass(frozen=True)
class Batches:
    """Pixel batches of a structured part: how their x words fall on the banks.

    conflicts: (batches, segments) f, most columns that address one bank. words: (batches, segments)
    x words read; padded taps read nothing. A segment is a tap, or the whole im2col row; `beats` of
    each segment.
    """

    conflicts: Counts
    words: Counts
    beats: int


@lru_cache(maxsize=256)
def batches(layer: Layer, first_pixel: int, pixels: int, columns: int, words: int) -> Batches:
    """Geometry of the batches of `columns` consecutive output pixels from `first_pixel` on.

    An x word lies in bank (row * W_in + column) mod T; an im2col word in bank (output pixel) mod T.
    """
    count = ceil_div(pixels, columns)
    if layer.c_in < words:
        full = np.minimum(columns, pixels - np.arange(count) * columns)[:, None]
        return Batches(np.ones_like(full), full, layer.beats(words))
    index = first_pixel + np.arange(count * columns)
    tap = np.arange(layer.taps)
    row = (index // layer.w_out * layer.stride - layer.padding)[:, None] + tap // layer.kernel
    column = (index % layer.w_out * layer.stride - layer.padding)[:, None] + tap % layer.kernel
    reads = (row >= 0) & (row < layer.h_in) & (column >= 0) & (column < layer.w_in)
    reads &= (index < first_pixel + pixels)[:, None]
    bank = ((row * layer.w_in + column) % columns).reshape(count, columns, layer.taps)
    reads = reads.reshape(bank.shape)
    conflicts = np.zeros((count, layer.taps), dtype=np.int64)
    for b in range(columns):
        np.maximum(conflicts, (reads & (bank == b)).sum(1), out=conflicts)
    return Batches(conflicts, reads.sum(1), ceil_div(layer.c_in, words))
