"""How the hardware sees a layer's inputs: windows over the pixels that its memories hold.

Where the input has fewer channels than an x word has values (a *narrow* layer), the host supplies
im2col rows, and the hardware sees a 1x1 layer of d channels over the output pixels. x^Q does the
same for projection `patch`; `tap` keeps the real geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

from .layer import Layer, ceil_div
from .machine import Machine

__all__ = ["Feed", "element_tiles", "is_tap", "p_rows", "row_tiles", "x_feed", "xq_feed"]


@dataclass(frozen=True)
class Feed:
    """x or x^Q of a band of output rows, as it lies in its memory.

    Parameters
    ----------
    kernel, stride : int
        Window that the hardware walks, in pixels of the memory.
    h_in, w_in : int
        Pixels in the memory.
    row0, column0 : int
        Place of tap 0 of the band's first output pixel; negative in the padding.
    words : int
        Memory words of a pixel.
    top : int
        Row of the layer's input, or of its im2col rows, that is row 0 of the memory.
    im2col : bool
        Whether a pixel is an im2col row rather than the channels of an input pixel.
    """

    kernel: int
    stride: int
    h_in: int
    w_in: int
    row0: int
    column0: int
    words: int
    top: int
    im2col: bool

    @property
    def pixels(self) -> int:
        return self.h_in * self.w_in

    @property
    def beats(self) -> int:
        """Words of a window."""
        return self.kernel**2 * self.words


def x_feed(layer: Layer, machine: Machine, row: int, rows: int) -> Feed:
    """x for output rows [row, row + rows), in words of w values."""
    return _feed(layer, machine.pses, layer.c_in < machine.pses, row, rows)


def xq_feed(layer: Layer, machine: Machine, row: int, rows: int) -> Feed:
    """x^Q for output rows [row, row + rows), in words of `machine.rpu.word` nibbles."""
    narrow = layer.c_in < machine.pses and not is_tap(layer)
    return _feed(layer, machine.rpu.word, narrow, row, rows)


def is_tap(layer: Layer) -> bool:
    """Whether the projection unit copies taps; with a kernel of one tap both forms are one."""
    return layer.projection == "tap" and layer.taps > 1


def p_rows(layer: Layer) -> int:
    """Rows of P: k, or k / taps for projection `tap`."""
    return layer.k // layer.taps if is_tap(layer) else layer.k


def row_tiles(layer: Layer, machine: Machine) -> int:
    """Tiles of P along its rows."""
    return ceil_div(p_rows(layer), machine.rpu.rows)


def element_tiles(layer: Layer, machine: Machine) -> int:
    """Tiles of P along the x^Q words of a window, or of an input pixel for projection `tap`."""
    feed = xq_feed(layer, machine, 0, 1)
    words = feed.words if is_tap(layer) else feed.beats
    return ceil_div(words, machine.rpu.elements // machine.rpu.word)


def _feed(layer: Layer, word: int, narrow: bool, row: int, rows: int) -> Feed:
    if narrow:
        return Feed(1, 1, rows, layer.w_out, 0, 0, ceil_div(layer.d, word), row, True)
    first = row * layer.stride - layer.padding
    top = max(0, first)
    bottom = min(layer.h_in, first + (rows - 1) * layer.stride + layer.kernel)
    return Feed(
        kernel=layer.kernel,
        stride=layer.stride,
        h_in=bottom - top,
        w_in=layer.w_in,
        row0=first - top,
        column0=-layer.padding,
        words=ceil_div(layer.c_in, word),
        top=top,
        im2col=False,
    )
