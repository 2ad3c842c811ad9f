"""What a tile asks of the machine: passes of the dispatcher (U), batches of pixels (S).

Everything here is counted from masks and geometry, vectorised; time is added in `engine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..common.layer import Layer, ceil_div

__all__ = ["Batches", "Passes", "batches", "dispatch"]

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Passes:
    """Passes of one unstructured tile, in order; one entry a pass in each array.

    window: index of the window. pixels: X, pixels of the window that need their x word. depth:
    largest number of pairs of a lane. pairs: pairs of all lanes. rows: distinct rows of all lanes,
    the weight words read a beat. drain: largest number of outputs of an output sub-bank.
    """

    windows: int
    window: Counts
    pixels: Counts
    depth: Counts
    pairs: Counts
    rows: Counts
    drain: Counts

    def part(self, first: int, windows: int) -> Passes:
        """The passes of `windows` windows from window `first` on, which becomes window 0."""
        begin, end = np.searchsorted(self.window, (first, first + windows))
        chosen = slice(int(begin), int(end))
        return Passes(
            windows,
            self.window[chosen] - first,
            self.pixels[chosen],
            self.depth[chosen],
            self.pairs[chosen],
            self.rows[chosen],
            self.drain[chosen],
        )


def dispatch(mask: Bools, lanes: int, window: int, accumulators: int) -> Passes:
    """Deal the essential pairs of a tile to lanes and passes.

    `mask` is (pixels, channels) in placement order: channel j is row j // lanes of lane
    j mod lanes.
    Windows of `window` pixels; a lane takes its pairs in row order, at most `accumulators` a pass.
    """
    pixels, channels = mask.shape
    windows, rows = ceil_div(pixels, window), ceil_div(channels, lanes)
    padded = np.zeros((windows * window, rows * lanes), dtype=bool)
    padded[:pixels, :channels] = mask
    # (windows, lanes, rows, window): the order in which a lane walks its pairs.
    pairs = np.ascontiguousarray(padded.reshape(windows, window, rows, lanes).transpose(0, 3, 2, 1))
    per_lane = pairs.sum((2, 3), dtype=np.int64)
    deepest = int(per_lane.max(initial=0))
    if deepest <= accumulators:
        levels = [pairs]
    else:
        ordinal = pairs.reshape(windows, lanes, -1).cumsum(-1, dtype=np.int32).reshape(pairs.shape)
        level = (ordinal - 1) // accumulators
        levels = [pairs & (level == n) for n in range(ceil_div(deepest, accumulators))]
    columns = [_describe(level, lanes) for level in levels]
    # (windows, passes), flattened in the order of execution, passes without pairs left out.
    stacked = [np.stack(values, axis=1) for values in zip(*columns, strict=True)]
    keep = stacked[2] > 0
    index = np.broadcast_to(np.arange(windows)[:, None], keep.shape)
    picked = (values[keep] for values in (index, *stacked))
    return Passes(windows, *picked)


def _describe(pairs: Bools, lanes: int) -> tuple[Counts, Counts, Counts, Counts, Counts]:
    """pixels, depth, pairs, rows and drain of each window of one pass."""
    pixels = pairs.any((1, 2)).sum(-1)
    per_lane = pairs.sum((2, 3), dtype=np.int64)
    rows = pairs.any(3).sum((1, 2))
    # An output sub-bank serves four neighbouring lanes.
    share = min(4, lanes)
    drain = per_lane.reshape(len(pairs), lanes // share, share).sum(-1).max(-1)
    return pixels, per_lane.max(-1), per_lane.sum(-1), rows, drain


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
