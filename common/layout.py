"""Images of the memories: operands as the banks hold them, results read back. Arrays both ways.

An image is a row of bytes: the rows of a transfer one after another, bit 0 of bank 0 first. Since
row and stream word are powers of two in bits, it is the stream as well, but for the zeros that fill
the last word. What has no channel, pixel or depth of its own is zero.

P is the number of output pixels of a part, C of its channels, in placement order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .allocation import groups_of
from .geometry import Feed, element_tiles, p_rows, row_tiles, x_feed, xq_feed
from .integer import IntegerLayer, im2col
from .layer import Layer, ceil_div
from .machine import Machine
from .parts import Part
from .program import Program, mask_rows
from .scheme import GROUP

__all__ = [
    "masks",
    "nibbles",
    "parameters",
    "projection",
    "read_masks",
    "read_values",
    "rough_weights",
    "rows_of",
    "value_image",
    "whole_weights",
    "x_image",
    "xq_image",
]

Ints = NDArray[np.integer]
Bytes = NDArray[np.uint8]


def rows_of(image: Bytes, bits: int, count: int) -> list[int]:
    """The first `count` rows of an image as numbers of `bits` bits, a power of two."""
    if bits < 8:
        mask, each = (1 << bits) - 1, 8 // bits
        return [int(image[n // each]) >> n % each * bits & mask for n in range(count)]
    size = bits // 8
    data = image.tobytes()
    return [int.from_bytes(data[n * size : (n + 1) * size], "little") for n in range(count)]


def nibbles(image: Bytes, unsigned: bool) -> NDArray[np.int8]:
    """The nibbles of an image, low ones first, as 0 to 15 or as -8 to 7."""
    image = np.asarray(image, dtype=np.uint8)
    values = np.stack((image & 15, image >> 4), axis=-1).reshape(-1).astype(np.int8)
    return values if unsigned else (values ^ 8) - 8


def _packed(values: NDArray[np.int8]) -> Bytes:
    """Nibbles to bytes, low one first; a last odd nibble has a zero beside it."""
    flat = values.reshape(-1).view(np.uint8) & 15
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[::2] | flat[1::2] << 4


def _bytes(values: Ints) -> Bytes:
    """A little-endian array as its bytes."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _padded(values: NDArray, *shape: int) -> NDArray:
    """`values` in the low corner of zeros of `shape`."""
    out = np.zeros(shape, dtype=values.dtype)
    out[tuple(slice(size) for size in values.shape)] = values
    return out


def _words(layer: Layer, feed: Feed, word: int, weight: Ints) -> Ints:
    """(C, d) weights or rows of P to (C, beats, word): tap-major, padded to words as the input."""
    count = len(weight)
    if feed.im2col:
        return _padded(weight, count, feed.words * word).reshape(count, feed.words, word)
    taps = weight.shape[1] // layer.c_in
    split = weight.reshape(count, taps, layer.c_in)
    return _padded(split, count, taps, feed.words * word).reshape(count, taps * feed.words, word)


def _banked(machine: Machine, units: NDArray) -> NDArray:
    """Words (8 V sg, n, ...) of each channel to rows of the banks of S.

    Channel i of a lane's group goes to slot i mod beta, row i div beta of the eight channels of a
    word: (sg, n, 8 / beta, V, beta, ...).
    """
    lanes, beta = machine.lanes, machine.weight_words
    n, *rest = units.shape[1:]
    shaped = units.reshape(-1, lanes, GROUP // beta, beta, n, *rest)
    return shaped.transpose(0, 4, 2, 1, 3, *range(5, shaped.ndim))


def whole_weights(machine: Machine, layer: Layer, weight: Ints) -> Bytes:
    """W of the channels of a part, (C, d), for EXACT."""
    feed, groups = x_feed(layer, machine, 0, 1), groups_of(machine, len(weight))
    words = _words(layer, feed, machine.pses, weight.astype("<i2"))
    words = _padded(words, groups * machine.channels_side_by_side, *words.shape[1:])
    if machine.unstructured:
        # (row, V, beat, w) to (beat, row, V, w).
        return _bytes(words.reshape(groups, machine.lanes, *words.shape[1:]).transpose(2, 0, 1, 3))
    return _bytes(_banked(machine, words))


def rough_weights(machine: Machine, layer: Layer, weight: Ints) -> Bytes:
    """W~ of the channels of a part, (C, k), for APPROXIMATE: quarters of w values of 16 bit."""
    lanes, w, groups = machine.lanes, machine.pses, groups_of(machine, len(weight))
    beats, beta = layer.approximate_beats(w), machine.weight_words
    padded = _padded(weight.astype(np.int8), groups * machine.channels_side_by_side, beats * 16 * w)
    quarters = _packed(padded).reshape(len(padded), beats, 4, 2 * w)
    if machine.unstructured:
        # (row, V, beat, quarter) to (row, beat, quarter, V).
        shaped = quarters.reshape(groups, lanes, beats, 4, 2 * w)
        return _bytes(shaped.transpose(0, 2, 3, 1, 4))
    # Row pairs outside beats; the eight words of a pair go through the slots.
    shaped = quarters.reshape(groups, lanes, 4, 2, beats, 4, 2 * w).transpose(0, 2, 4, 1, 3, 5, 6)
    slots = shaped.reshape(groups, 4, beats, lanes, GROUP // beta, beta, 2 * w)
    return _bytes(slots.transpose(0, 1, 2, 4, 3, 5, 6))


def parameters(machine: Machine, spec: IntegerLayer, channels: NDArray[np.integer]) -> Bytes:
    """M, b, M~, b~, a, c of these channels, in 128 bits each."""
    kind = [("M", "<i2"), ("b", "<i4"), ("m", "<i2"), ("r", "<i4"), ("a", "<i2"), ("c", "<i2")]
    groups = groups_of(machine, len(channels))
    table = np.zeros(groups * machine.channels_side_by_side, dtype=np.dtype(kind))
    sources = (
        spec.multiplier,
        spec.bias,
        spec.noise_multiplier,
        spec.noise_bias,
        spec.gain,
        spec.offset,
    )
    for (field, _), values in zip(kind, sources, strict=True):
        table[field][: len(channels)] = values[channels]
    words = table.view(np.uint8).reshape(len(table), 1, 16)
    return _bytes(words if machine.unstructured else _banked(machine, words))


def _pixels(layer: Layer, feed: Feed, word: int, values: Ints) -> Ints:
    """(H, W, C_in) inputs to the pixels of a band in memory: (pixels, words, word)."""
    if feed.im2col:
        window = (layer.kernel, layer.stride, layer.padding)
        first = feed.top * layer.w_out
        pixels = im2col(values[None], *window)[first : first + feed.pixels]
    else:
        pixels = values[feed.top : feed.top + feed.h_in].reshape(feed.pixels, layer.c_in)
    return _padded(pixels, feed.pixels, feed.words * word).reshape(feed.pixels, feed.words, word)


def x_image(machine: Machine, layer: Layer, feed: Feed, x: Ints) -> Bytes:
    """Word by word of a pixel, pixels dealt to the T banks."""
    pixels = _pixels(layer, feed, machine.pses, x)
    plane = ceil_div(feed.pixels, machine.columns)
    pixels = _padded(pixels, plane * machine.columns, *pixels.shape[1:])
    return _bytes(pixels.transpose(1, 0, 2))


def xq_image(machine: Machine, layer: Layer, feed: Feed, xq: Ints) -> Bytes:
    """Word by word of a pixel, in nibbles."""
    return _packed(_pixels(layer, feed, machine.rpu.word, xq).transpose(1, 0, 2))


def projection(machine: Machine, layer: Layer, matrix: Ints) -> Bytes:
    """Tiles of P, two bits an entry: 0 zero, 1 plus, 3 minus."""
    rpu, feed = machine.rpu, xq_feed(layer, machine, 0, 1)
    down, across = row_tiles(layer, machine), element_tiles(layer, machine)
    words = _words(layer, feed, rpu.word, matrix.astype(np.int8))
    flat = words.reshape(p_rows(layer), -1)
    padded = _padded(flat, down * rpu.rows, across * rpu.elements).view(np.uint8) & 3
    tiles = padded.reshape(down, rpu.rows, across, rpu.elements).transpose(2, 0, 1, 3)
    codes = tiles.reshape(-1, 4)
    return codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6


def value_image(machine: Machine, values: Ints) -> Bytes:
    """(P, C) values as rows of y or of the residual."""
    pixels, channels = values.shape
    lanes, columns, groups = machine.lanes, machine.columns, groups_of(machine, channels)
    batches, width = ceil_div(pixels, columns), groups * machine.channels_side_by_side
    padded = _padded(values, batches * columns, width)
    if machine.unstructured:
        return _bytes(padded)  # (pixel, row, lane)
    shaped = padded.reshape(batches, columns, groups, lanes, GROUP)
    return _bytes(shaped.transpose(2, 0, 4, 1, 3))  # (sg, batch, i, t, v)


def read_values(machine: Machine, layer: Layer, part: Part, values: Ints) -> Ints:
    """The inverse of `value_image`, from a flat array of values that may go on after the last."""
    pixels, groups = part.rows * layer.w_out, groups_of(machine, part.channels)
    lanes, columns = machine.lanes, machine.columns
    batches, width = ceil_div(pixels, columns), groups * machine.channels_side_by_side
    values = values[: batches * columns * width]
    if machine.unstructured:
        return values.reshape(pixels, width)[:, : part.channels]
    shaped = values.reshape(groups, batches, GROUP, columns, lanes).transpose(1, 3, 0, 4, 2)
    return shaped.reshape(batches * columns, width)[:pixels, : part.channels]


def _tile_spans(program: Program, index: int) -> list[tuple[int, int]]:
    """First pixel in the part and pixels of each block."""
    part, columns = program.parts[index], program.machine.columns
    pixels, spans, first = part.rows * program.layer.w_out, [], 0
    for depth in program.blocks[index].sizes:
        spans.append((first, min(depth * columns, pixels - first)))
        first += depth * columns
    return spans


def masks(program: Program, index: int, mask: NDArray[np.bool_]) -> Bytes:
    """All masks of a part, (P, C), in tile order."""
    machine, blocks = program.machine, program.blocks[index]
    lanes, columns, groups = machine.lanes, machine.columns, groups_of(machine, mask.shape[1])
    spans = _tile_spans(program, index)
    if not machine.unstructured:
        padded = _padded(mask, sum(blocks.sizes) * columns, groups * GROUP * lanes)
        lines = padded.reshape(-1, columns, groups, lanes, GROUP)  # (batch, t, sg, v, i)
        tiles, first = [], 0
        for depth in blocks.sizes:
            tiles.append(lines[first : first + depth].transpose(2, 0, 1, 3, 4).reshape(-1))
            first += depth
        return np.packbits(np.concatenate(tiles), bitorder="little")
    window, per_word = machine.window, 64 // machine.window
    windows, words = ceil_div(blocks.deepest, window), ceil_div(groups, per_word)
    image = np.zeros((blocks.count, windows * window, words * per_word * lanes), dtype=bool)
    for tile, (first, pixels) in enumerate(spans):
        image[tile, :pixels, : mask.shape[1]] = mask[first : first + pixels]
    # (tile, window, pixel, word, row, lane) to (tile, window, word, lane, row, pixel).
    shaped = image.reshape(blocks.count, windows, window, words, per_word, lanes)
    return np.packbits(shaped.transpose(0, 1, 3, 5, 4, 2).reshape(-1), bitorder="little")


def read_masks(program: Program, index: int, stream: Bytes) -> NDArray[np.bool_]:
    """The inverse of `masks`."""
    machine, blocks, part = program.machine, program.blocks[index], program.parts[index]
    lanes, columns, groups = machine.lanes, machine.columns, groups_of(machine, part.channels)
    spans = _tile_spans(program, index)
    pixels = part.rows * program.layer.w_out
    if not machine.unstructured:
        count = sum(blocks.sizes) * columns * groups * lanes * GROUP
        bits = np.unpackbits(stream, count=count, bitorder="little").view(bool)
        pieces, first = [], 0
        for depth in blocks.sizes:
            size = depth * columns * groups * lanes * GROUP
            tile = bits[first : first + size].reshape(groups, depth, columns, lanes, GROUP)
            pieces.append(tile.transpose(1, 2, 0, 3, 4).reshape(depth * columns, -1))
            first += size
        return np.concatenate(pieces)[:pixels, : part.channels]
    window, per_word = machine.window, 64 // machine.window
    rows = mask_rows(machine, part.channels, blocks.deepest)
    words = ceil_div(groups, per_word)
    bits = np.unpackbits(stream, count=blocks.count * rows * lanes * 64, bitorder="little")
    shaped = bits.view(bool).reshape(blocks.count, -1, words, lanes, per_word, window)
    flat = shaped.transpose(0, 1, 5, 2, 4, 3).reshape(blocks.count, -1, words * per_word * lanes)
    return np.concatenate([flat[t, :n, : part.channels] for t, (_, n) in enumerate(spans)])
