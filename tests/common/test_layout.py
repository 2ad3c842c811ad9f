"""Images of the memories, worked out by hand on machines of a few lanes."""

from dataclasses import replace

import numpy as np
import pytest

from sinai.common import layout
from sinai.common.blocks import Pieces
from sinai.common.geometry import x_feed, xq_feed
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme

#: V = 2, w = 4, T = 2, beta = 1, Q = 16; and V = 4, w = 4, W = 2, Q = 16.
S, U = PRESETS["structured-small"], PRESETS["unstructured-small"]


def one_by_one(c_in, c_out, h_in=1, w_in=1, **more):
    geometry = {"kernel": 1, "stride": 1, "padding": 0, "k": 2, "name": "l"} | more
    return Layer(c_in=c_in, c_out=c_out, h_in=h_in, w_in=w_in, **geometry)


def words16(row, count):
    """The 16-bit words of a row, low ones first, as positive numbers."""
    return [row >> 16 * n & 0xFFFF for n in range(count)]


def test_exact_weights_of_a_structured_machine():
    """Channel 8 v + i is word i of lane v: row i has channel i low, channel 8 + i high."""
    weight = np.arange(9)[:, None] * 16 + np.arange(5)[None, :]
    image = layout.whole_weights(S, one_by_one(5, 9), weight)
    rows = layout.rows_of(image, 2 * 64, 16)
    assert image.size == 16 * 16  # two beats of eight words for a supergroup
    assert words16(rows[0], 8) == [0, 1, 2, 3, 128, 129, 130, 131]
    assert words16(rows[7], 8) == [112, 113, 114, 115, 0, 0, 0, 0]
    # Beat 1 has channel 4 of the input, and zeros up to the word.
    assert words16(rows[8], 8) == [4, 0, 0, 0, 132, 0, 0, 0]


def test_exact_weights_with_two_words_a_cycle():
    """Word i of a lane is slot i mod 2 of row i div 2."""
    machine = override(S, ["weight_words=2"])
    weight = np.arange(16)[:, None] + np.zeros((1, 4), dtype=np.int64)
    rows = layout.rows_of(layout.whole_weights(machine, one_by_one(4, 16), weight), 256, 4)
    assert [words16(row, 16)[::4] for row in rows] == [
        [0, 1, 8, 9],
        [2, 3, 10, 11],
        [4, 5, 12, 13],
        [6, 7, 14, 15],
    ]


def test_exact_weights_of_an_unstructured_machine():
    """Address beat * rows + row; lane v of row r is channel 4 r + v. Taps come before channels."""
    layer = one_by_one(4, 5, 2, 2, kernel=2)
    weight = np.arange(5)[:, None] * 100 + np.arange(16)[None, :]
    rows = layout.rows_of(layout.whole_weights(U, layer, weight), 4 * 64, 8)
    assert words16(rows[0], 16)[::4] == [0, 100, 200, 300]
    assert words16(rows[1], 16)[::4] == [400, 0, 0, 0]
    assert words16(rows[6], 16)[:8] == [12, 13, 14, 15, 112, 113, 114, 115]


def test_approximate_weights():
    """A row-beat is 64 nibbles in four words; S keeps the rows 2 rp and 2 rp + 1 side by side."""
    nibbles = (np.arange(70) % 8)[None, :] - np.zeros((9, 1), dtype=np.int64)
    nibbles[1] = -1
    layer = one_by_one(4, 9, k=70)
    rows = layout.rows_of(layout.rough_weights(U, layer, nibbles), 256, 24)
    # Row 0, beat 0, words 0 to 3; then beat 1 with the nibbles 64 to 69.
    assert rows[0] & (1 << 64) - 1 == 0x7654321076543210
    assert rows[0] >> 64 & (1 << 64) - 1 == (1 << 64) - 1
    assert rows[4] & (1 << 64) - 1 == 0x543210
    assert rows[5] == 0
    # Channel 8 is lane 0 of row 2, from address (2 * 2 + 0) * 4 on.
    assert rows[16] == 0x7654321076543210
    rows = layout.rows_of(layout.rough_weights(S, layer, nibbles), 128, 64)
    # Pair 0, beat 0: four words of row 0, four of row 1; lane 1 has channel 8 as its row 0.
    assert rows[0] == 0x7654321076543210 << 64 | 0x7654321076543210
    assert rows[4] == (1 << 64) - 1
    assert rows[8] == 0x543210 << 64 | 0x543210
    assert rows[12] == 0xFFFFFF
    # Pair 1, beat 0 is channel 2.
    assert rows[16] == 0x7654321076543210


def test_inputs_are_dealt_to_the_banks():
    """Five channels are two words, each in a plane of ceil(3 pixels / 2 banks) rows."""
    layer = one_by_one(5, 4, 1, 3)
    x = (np.arange(3)[:, None] * 10 + np.arange(5)).reshape(1, 3, 5).astype("<i2")
    image = layout.x_image(S, layer, x_feed(layer, S, 0, 1), x)
    assert [words16(row, 8) for row in layout.rows_of(image, 128, 4)] == [
        [0, 1, 2, 3, 10, 11, 12, 13],
        [20, 21, 22, 23, 0, 0, 0, 0],
        [4, 0, 0, 0, 14, 0, 0, 0],
        [24, 0, 0, 0, 0, 0, 0, 0],
    ]
    xq = (x % 10 + 8).astype(np.int8)
    image = layout.xq_image(S, layer, xq_feed(layer, S, 0, 1), xq)
    assert layout.rows_of(image, 64, 3) == [0xCBA98] * 3


def test_narrow_inputs_come_as_windows():
    """Two channels of a 2x2 window are eight values of each of two output pixels."""
    layer = one_by_one(2, 4, 2, 3, kernel=2)
    x = np.arange(12).reshape(2, 3, 2).astype("<i2")
    image = layout.x_image(S, layer, x_feed(layer, S, 0, 1), x)
    assert [words16(row, 8) for row in layout.rows_of(image, 128, 2)] == [
        [0, 1, 2, 3, 2, 3, 4, 5],
        [6, 7, 8, 9, 8, 9, 10, 11],
    ]


def test_a_band_holds_the_rows_it_reads():
    """Output rows 2 and 3 of a 3x3 window of stride 2 and padding 1 read input rows 3 to 6 (of 7);
    row 7 is padding."""
    layer = one_by_one(4, 4, 7, 2, kernel=3, stride=2, padding=1)
    x = np.arange(7)[:, None, None] * np.ones((1, 2, 4), np.int64)
    feed = x_feed(layer, U, 2, 2)
    assert (feed.top, feed.h_in, feed.row0, feed.column0) == (3, 4, 0, -1)
    rows = layout.rows_of(layout.x_image(U, layer, feed, x.astype("<i2")), 64, 8)
    assert [row & 0xFFFF for row in rows] == [3, 3, 4, 4, 5, 5, 6, 6]
    first = x_feed(layer, U, 0, 1)
    assert (first.top, first.h_in, first.row0) == (0, 2, -1)


def test_tiles_of_p():
    """A tile is 4 rows of 16 codes: 0 zero, 1 plus, 3 minus; rows of tiles inside elements.

    Five rows are two tiles, five channels one word of 16 nibbles, four taps four words."""
    layer = one_by_one(5, 4, 2, 2, kernel=2, k=5)
    matrix = np.zeros((5, 20), dtype=np.int8)
    matrix[0, :3] = [1, -1, 1]
    matrix[1, 5] = -1  # tap 1, channel 0: the second tile of elements
    matrix[4, 19] = 1  # tap 3, channel 4
    rows = layout.rows_of(layout.projection(S, layer, matrix), 64, 2 * 8)
    assert rows[0] == 0b01_11_01
    assert rows[1] == 0
    assert rows[4] == 0b11 << 2 * 16  # row 1 of the tile
    assert rows[14] == 1 << 2 * 4  # the eighth tile: row 4 is its row 0
    assert sum(map(bool, rows)) == 3


def test_parameters(integer_layer):
    """M, b, M~, b~, a, c from bit 0 on; bank 1 holds the channels 8 to 15 of lane 1."""
    spec = integer_layer(
        np.random.default_rng(0),
        c_in=4,
        c_out=9,
        kernel=1,
        stride=1,
        padding=0,
        h_in=1,
        w_in=1,
        k=2,
    )
    rows = layout.rows_of(layout.parameters(S, spec, np.arange(9)), 256, 8)
    fields = [
        (spec.multiplier, 0, 16),
        (spec.bias, 16, 32),
        (spec.noise_multiplier, 48, 16),
        (spec.noise_bias, 64, 32),
        (spec.gain, 96, 16),
        (spec.offset, 112, 16),
    ]
    for values, low, bits in fields:
        assert rows[3] >> low & (1 << bits) - 1 == int(values[3]) % (1 << bits)
        assert rows[0] >> 128 + low & (1 << bits) - 1 == int(values[8]) % (1 << bits)
    assert rows[1] >> 128 == 0
    # U: channel 5 is lane 1 of row 1.
    rows = layout.rows_of(layout.parameters(U, spec, np.arange(9)), 512, 3)
    assert rows[1] >> 128 & 0xFFFF == int(spec.multiplier[5]) % (1 << 16)


def test_outputs_and_residuals():
    """S: row batch * 8 + i of a supergroup, bank t * V + v. U: a row for each four channels."""
    values = (np.arange(3)[:, None] * 100 + np.arange(9)).astype("<i2")
    rows = layout.rows_of(layout.value_image(S, values), 64, 16)
    assert words16(rows[0], 4) == [0, 8, 100, 108]
    assert words16(rows[7], 4) == [7, 0, 107, 0]
    assert words16(rows[8], 4) == [200, 208, 0, 0]
    rows = layout.rows_of(layout.value_image(U, values), 64, 9)
    assert words16(rows[1], 4) == [4, 5, 6, 7]
    assert words16(rows[2], 4) == [8, 0, 0, 0]
    assert words16(rows[3], 4) == [100, 101, 102, 103]


def test_nibbles_are_low_ones_first():
    image = np.array([0x1F, 0x80], dtype=np.uint8)
    assert layout.nibbles(image, True).tolist() == [15, 1, 0, 8]
    assert layout.nibbles(image, False).tolist() == [-1, 1, 0, -8]


def test_rows_narrower_than_a_byte():
    assert layout.rows_of(np.array([0b11_10_01_00, 0b10], dtype=np.uint8), 2, 5) == [0, 1, 2, 3, 2]


def test_masks_of_a_structured_machine():
    """A row a batch, byte t * V + v: bit i is channel i of the lane's group. Tile after tile."""
    program = compile_layer(one_by_one(4, 20, 1, 3), S, Scheme.parse("unstructured:0.5"))
    program = replace(program, blocks=(Pieces(2, 1, 0),))
    mask = np.zeros((3, 20), dtype=bool)
    mask[0, 3] = mask[1, 8] = mask[1, 17] = mask[2, 15] = True
    image = layout.masks(program, 0, mask)
    expected = [[1 << 3, 0, 0, 1], [0, 0, 2, 0], [0, 1 << 7, 0, 0], [0, 0, 0, 0]]
    assert image.reshape(4, 4).tolist() == expected
    assert np.array_equal(layout.read_masks(program, 0, image), mask)


def test_masks_of_an_unstructured_machine():
    """A word has 32 rows of two pixels; a tile of five pixels has three windows of as many words
    as its 33 rows need."""
    layer = one_by_one(4, 4 * 33, 1, 9)
    program = compile_layer(layer, U, Scheme.parse("unstructured:0.5"))
    program = replace(program, blocks=(Pieces(2, 4, 1),))
    mask = np.zeros((9, 4 * 33), dtype=bool)
    mask[1, 6] = True  # row 1, lane 2, pixel 1 of window 0
    mask[4, 4 * 32] = True  # row 32: the second word of window 2
    mask[7, 3] = True  # pixel 2 of tile 1: window 1, lane 3
    rows = layout.rows_of(layout.masks(program, 0, mask), 256, 12)
    expected = dict.fromkeys(range(12), 0)
    expected[0] = 1 << 2 * 64 + 3
    expected[2 * 2 + 1] = 1
    expected[6 + 1 * 2] = 1 << 3 * 64
    assert rows == list(expected.values())
    assert np.array_equal(layout.read_masks(program, 0, layout.masks(program, 0, mask)), mask)


@pytest.mark.parametrize("machine", [S, U])
def test_outputs_read_back(machine):
    """The stream may go on after the last value."""
    program = compile_layer(one_by_one(4, 21, 1, 5), machine, Scheme.parse("dense"))
    values = np.random.default_rng(1).integers(-32768, 32768, (5, 21)).astype("<i2")
    flat = np.append(layout.value_image(machine, values).view("<i2"), np.int16([7] * 9))
    found = layout.read_values(machine, program.layer, program.parts[0], flat)
    assert np.array_equal(found, values)
