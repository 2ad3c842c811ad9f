"""The projection unit: when p of a part's pixels may be issued, and what projecting them counts.

x^Q of a group of pixels is gathered, a word a cycle, while the group before passes the tiles of P.
A *slot* is a group and an element tile: it computes, and at the same time the next slot's words are
gathered; the longer of the two is its length. Projection `tap` does so for the rows of the input
that the next output row needs, then copies K x K results to each pixel of that row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..common.blocks import p_batches
from ..common.contract import Contract
from ..common.geometry import element_tiles, is_tap, row_tiles, xq_feed
from ..common.layer import ceil_div
from ..common.parts import Part
from ..common.program import Program

__all__ = ["ProjectionUnit", "slots"]


def slots(words: list[int], row_tiles: int, load: int, sizes: list[int]) -> Iterator[list[int]]:
    """Cycles of the slots of consecutive groups, one list a group.

    `words` are the x^Q words of a pixel in each element tile, `sizes` the pixels of the groups.
    The last entry of a list is the compute of the last slot alone: p is done then, whatever is
    still being gathered. What that gathering takes longer follows as one more entry.
    """
    single = len(words) * row_tiles == 1
    for index, size in enumerate(sizes):
        compute = size if single else row_tiles * max(size, load)
        after = sizes[index + 1] * words[0] if index + 1 < len(sizes) else 0
        yield [
            *(max(compute, size * following) for following in words[1:]),
            compute,
            max(0, after - compute),
        ]


class ProjectionUnit:
    """Works through the groups of a part in order, as far as the p memory has room.

    Times are cycles since the launch of the part. The vector unit tells when room is returned
    (:meth:`release`) and asks when p of a pixel is there (:meth:`usable`), both in its own order,
    in which everything that a group waits for has happened before that group is asked for.
    """

    def __init__(self, program: Program, part: Part, contract: Contract, counts: Counter):
        layer, machine = program.layer, program.machine
        self.part, self.layer, self.machine, self.contract = part, layer, machine, contract
        self.counts = counts
        self.begin = contract.launch(machine.columns)
        self.tap = is_tap(layer)
        self.feed = xq_feed(layer, machine, part.row, part.rows)
        self.row_tiles = row_tiles(layer, machine)
        total = self.feed.words if self.tap else self.feed.beats
        tile = machine.rpu.elements // machine.rpu.word
        self.words = [min(tile, total - first) for first in range(0, total, tile)]
        assert len(self.words) == element_tiles(layer, machine)
        self.room = p_batches(layer, machine) * machine.columns
        self.pixels = part.rows * layer.w_out
        self._frees: list[tuple[int, int]] = []  # pixels of the part freed by then, time
        self._ends: list[tuple[int, int]] = []  # pixels of the part done, time usable
        self._groups = self._tap_groups() if self.tap else self._patch_groups()
        if part.projects:
            self._count()

    @property
    def projected(self) -> int:
        """Vectors multiplied by P: im2col rows, or input pixels."""
        if not self.part.projects:
            return 0
        if not self.tap:
            return self.pixels
        return self.feed.w_in * sum(len(rows) for rows in self._rows())

    def usable(self, pixel: int) -> int:
        """First cycle in which p of pixel `pixel` of the part, and of those before, may be issued;
        0 if the part before has left it."""
        if not self.part.projects:
            return 0
        ends = self._ends
        while not ends or ends[-1][0] <= pixel:
            ends.append(next(self._groups))
        group = len(ends) - 1
        while group and ends[group - 1][0] > pixel:
            group -= 1
        return ends[group][1]

    def release(self, pixels: int, time: int) -> None:
        """p of the first `pixels` pixels of the part is not needed from `time` on."""
        self._frees.append((pixels, time))

    def _room_for(self, pixels: int) -> int:
        """When the p memory has room for the first `pixels` pixels of the part."""
        if pixels <= self.room:
            return 0
        return next(time for freed, time in self._frees if pixels <= freed + self.room)

    def _sizes(self, pixels: int) -> list[int]:
        hold = self.machine.rpu.hold
        return [min(hold, pixels - first) for first in range(0, pixels, hold)]

    @property
    def _load(self) -> int:
        return self.machine.rpu.load_cycles

    def _patch_groups(self) -> Iterator[tuple[int, int]]:
        sizes = self._sizes(self.pixels)
        now = self.begin + max(self._load, sizes[0] * self.words[0])
        done = 0
        for size, lengths in zip(
            sizes, slots(self.words, self.row_tiles, self._load, sizes), strict=True
        ):
            done += size
            now = max(now, self._room_for(done)) + sum(lengths[:-1])
            yield done, now - 1 + self.contract.rpu_fill
            now += lengths[-1]

    def _tap_groups(self) -> Iterator[tuple[int, int]]:
        layer, now = self.layer, self.begin
        first = self._load  # The first tile of P loads behind the first gather; it stays or wraps.
        for row, inputs in enumerate(self._rows()):
            sizes = self._sizes(self.feed.w_in) * len(inputs)
            if sizes:
                now += max(first, sizes[0] * self.words[0])
                first = 0
                for lengths in slots(self.words, self.row_tiles, self._load, sizes):
                    now += sum(lengths)
                # What has been projected last must have reached the tap memory.
                now += self.contract.rpu_fill - 1
            done = row * layer.w_out
            for size in self._sizes(layer.w_out):
                done += size
                now = max(now, self._room_for(done)) + size * layer.taps
                yield done, now - 1 + self.contract.rpu_fill

    def _rows(self) -> list[range]:
        """For each output row of the part, the rows of the input that are projected before it."""
        feed, known, found = self.feed, 0, []
        for row in range(self.part.rows):
            top = feed.row0 + row * feed.stride
            first, end = max(0, top, known), min(feed.h_in, top + feed.kernel)
            found.append(range(first, max(first, end)))
            known = max(known, end)
        return found

    def _count(self) -> None:
        """Count what projecting the part does, whatever the times."""
        counts, feed, layer = self.counts, self.feed, self.layer
        elements, single = len(self.words), len(self.words) * self.row_tiles == 1
        if self.tap:
            groups = len(self._sizes(feed.w_in)) * sum(len(rows) for rows in self._rows())
        else:
            groups = len(self._sizes(self.pixels))
        tiles = 1 if single else groups * elements * self.row_tiles
        counts["projection.read"] += tiles * self._load
        passes = self.projected * self.row_tiles
        counts["gather.write"] += self.projected * sum(self.words)
        counts["gather.read"] += passes * elements
        counts["sums.read"] += passes * (elements - 1)
        counts["sums.write"] += passes * (elements - 1)
        inside = _inside(self.part.rows, feed.row0, feed.stride, feed.kernel, feed.h_in) * _inside(
            layer.w_out, feed.column0, feed.stride, feed.kernel, feed.w_in
        )
        if self.tap:
            counts["xq.read"] += self.projected * feed.words
            counts["tap.write"] += passes
            counts["tap.read"] += inside
            counts["p.write"] += self.pixels * ceil_div(layer.k, self.machine.rpu.rows)
        else:
            counts["xq.read"] += inside * feed.words
            counts["p.write"] += passes


def _inside(outputs: int, start: int, stride: int, kernel: int, side: int) -> int:
    """Taps of all outputs along one side of the image that lie inside the input."""
    return sum(
        max(0, min(side, at + kernel) - max(0, at))
        for at in range(start, start + outputs * stride, stride)
    )
