"""The geometry of one convolution, and the counts that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import InputError

__all__ = ["Layer", "ceil_div"]


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up; all ratios of the machine are rounded this way."""
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution as the machine sees it. A linear layer is a 1x1 convolution over tokens.

    Parameters
    ----------
    name : str
        Name in the network, for example ``blocks.0.conv1``.
    c_in, c_out : int
        Channels.
    kernel, stride, padding : int
        Side of the square kernel, step and zero-padding, in pixels.
    h_in, w_in : int
        Input side, in pixels, without padding.
    k : int
        Projected depth: rows of P times, for `tap`, the taps.
    projection : {"patch", "tap"}
        `patch`: P is (k, d) over the im2col window, as in the paper. `tap`: P is (k / kernel**2,
        c_in), shared by all taps.
    projection_nonzeros : int
        Nonzero entries of P.
    unsigned_input : bool
        Whether x^Q is in [0, 15] (after a ReLU) rather than [-8, 7].
    residual : bool
        Whether write-back adds a residual.
    joined : str
        Layers with the same non-empty name write the same residual stream, so they share scales
        and, on the unstructured machine, one placement of channels.
    """

    name: str
    c_in: int
    c_out: int
    kernel: int
    stride: int
    padding: int
    h_in: int
    w_in: int
    k: int
    projection: Literal["patch", "tap"] = "patch"
    projection_nonzeros: int = 0
    unsigned_input: bool = True
    residual: bool = False
    joined: str = ""

    def __post_init__(self) -> None:
        for field in ("c_in", "c_out", "kernel", "stride", "h_in", "w_in", "k"):
            if getattr(self, field) < 1:
                raise InputError(
                    f"layer {self.name}: {field} must be at least 1, not {getattr(self, field)}"
                )
        if not 0 <= self.padding < self.kernel:
            raise InputError(
                f"layer {self.name}: padding must be between 0 and kernel - 1 = {self.kernel - 1},"
                f" not {self.padding}"
            )
        if self.h_out < 1 or self.w_out < 1:
            raise InputError(
                f"layer {self.name}: a {self.kernel}x{self.kernel} kernel does not fit the padded"
                f" input of {self.h_in}x{self.w_in} pixels"
            )
        if self.projection == "tap" and self.k % self.taps:
            raise InputError(
                f"layer {self.name}: k must be a multiple of {self.taps} taps for projection tap,"
                f" not {self.k}"
            )

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return self.kernel**2

    @property
    def d(self) -> int:
        """Depth of an exact dot product."""
        return self.taps * self.c_in

    @property
    def h_out(self) -> int:
        return (self.h_in + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def w_out(self) -> int:
        return (self.w_in + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def pixels(self) -> int:
        """P, output pixels of one image."""
        return self.h_out * self.w_out

    @property
    def neurons(self) -> int:
        return self.pixels * self.c_out

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layer; one fused multiply-add counts as one."""
        return self.neurons * self.d

    def beats(self, words: int) -> int:
        """B, depth beats of `words` channels each; narrow inputs come as im2col rows."""
        if self.c_in < words:
            return ceil_div(self.d, words)
        return self.taps * ceil_div(self.c_in, words)

    def approximate_beats(self, words: int) -> int:
        """B4, depth beats of the approximate pass: 16 nibbles for each of `words` PSEs."""
        return ceil_div(self.k, 16 * words)
