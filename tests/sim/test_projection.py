"""The projection unit: slots, room and counts by hand; cycles are also held to stepping."""

from collections import Counter

import pytest

from sinai.common.contract import CONTRACT
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.sim.projection import ProjectionUnit, slots

S = PRESETS["structured-small"]
BEGIN, FILL = CONTRACT.launch(2), CONTRACT.rpu_fill


def projected(layer, changes=()):
    """Unit and counts of a layer on the small structured machine; four pixels are held."""
    program = compile_layer(layer, override(S, list(changes)), Scheme.parse("structured:6:8"))
    counts = Counter()
    return ProjectionUnit(program, program.parts[0], CONTRACT, counts), counts


@pytest.mark.parametrize(
    ("words", "row_tiles", "load", "sizes", "expected"),
    [
        pytest.param([1], 1, 9, [4, 3], [[4, 0], [3, 0]], id="a single tile stays"),
        pytest.param([3], 1, 9, [4, 4], [[4, 8], [4, 0]], id="gathering takes longer"),
        pytest.param([1, 1], 3, 2, [4], [[12, 12, 0]], id="adders take longer"),
        pytest.param([2, 1], 1, 6, [4, 2], [[6, 6, 0], [6, 6, 0]], id="loads take longer"),
        pytest.param([2, 5], 1, 1, [4, 4], [[20, 4, 4], [20, 4, 0]], id="tile by tile"),
    ],
)
def test_slots_by_hand(words, row_tiles, load, sizes, expected):
    assert list(slots(words, row_tiles, load, sizes)) == expected


def test_groups_of_a_single_tile_by_hand(layer_of):
    """k = 4 rows, one word of 8 of 16 nibbles: gathering four pixels takes as long as adding them;
    before the first group P loads in 2 cycles and x^Q comes in 4."""
    unit, counts = projected(layer_of(kernel=1, padding=0, k=4))
    first = BEGIN + 4 + 4 - 1 + FILL
    assert [unit.usable(pixel) for pixel in (0, 3, 4, 15)] == [first, first, first + 4, first + 12]
    assert counts["projection.read"] == 2
    assert counts["xq.read"] == counts["gather.write"] == counts["gather.read"] == 16
    assert counts["sums.write"] == 0
    assert counts["p.write"] == 16
    assert unit.projected == 16


def test_group_waits_for_room(layer_of):
    """Room for eight pixels: the third group of four starts when the first four are released."""
    unit, _ = projected(layer_of(kernel=1, padding=0, k=4))
    unit.room = 8
    second = unit.usable(7)
    unit.release(4, second + 500)
    assert unit.usable(11) == second + 500 + 4 - 1 + FILL
    unit.release(12, second + 501)
    # What was gathered meanwhile is not lost.
    assert unit.usable(15) == unit.usable(11) + 4


def test_padded_taps_are_written_and_not_read(layer_of):
    """3x3 over 4x4 with padding: 100 of 144 taps lie inside; nine element tiles, two row tiles."""
    _, counts = projected(layer_of(k=8))
    assert counts["gather.write"] == 16 * 9
    assert counts["xq.read"] == (4 * 3 - 2) ** 2
    assert counts["gather.read"] == 16 * 9 * 2
    assert counts["sums.read"] == counts["sums.write"] == 16 * 2 * 8
    assert counts["projection.read"] == 4 * 9 * 2 * 2  # groups, tiles, words
    assert counts["p.write"] == 16 * 2


def test_taps_by_output_rows_by_hand(layer_of):
    """Two rows of the input for the first output row, then one each, none for the last.

    A row of four pixels is one group: gathered in 4 cycles, added in 4 (k / 9 = 4 rows are a single
    tile); copying a row takes 4 x 9 cycles.
    """
    unit, counts = projected(layer_of(projection="tap", k=36))
    row = 4 * 9
    # Copying starts when what has been projected is in the tap memory.
    first = BEGIN + 4 + 4 + 4 + (FILL - 1) + row
    second = first + 4 + 4 + (FILL - 1) + row
    third = second + 4 + 4 + (FILL - 1) + row
    expected = [first, second, third, third + row]
    assert [unit.usable(pixel) for pixel in (3, 7, 11, 15)] == [end - 1 + FILL for end in expected]
    assert unit.projected == 16
    assert counts["tap.write"] == 16
    assert counts["tap.read"] == (4 * 3 - 2) ** 2
    assert counts["p.write"] == 16 * 36 // 4


def test_a_wide_row_is_copied_in_groups(layer_of):
    """Six pixels of a row with four held: usable after four and after six pixels of nine cycles."""
    unit, _ = projected(layer_of(projection="tap", k=36, w_in=6))
    assert unit.usable(5) - unit.usable(3) == 2 * 9
    assert unit.usable(5) == unit.usable(4)
