"""Every choice that the paper leaves open in a layer, as one frozen record with our defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from ..common.errors import InputError
from ..common.projection import DISTORTION, k_jll, projected_depth

__all__ = ["Switches"]

_CHOICES = {
    "projection": ("patch", "tap"),
    "weight_scale": ("channel", "tensor"),
    "bias": ("int32", "int4"),
    "steps": ("calibrated", "dynamic"),
    "activation": ("none", "both", "essential"),
    "score": ("value", "abs", "random", "inverse"),
    "threshold": ("sample", "position", "static"),
    "axis": ("channel", "position"),
    "gradient": ("ste", "zero", "detach"),
    "batch_norm": ("keep", "fold"),
}

_BITS = (2, 4, 8, 16, 32)

_DEPTH = re.compile(r"full|jll:(?P<eps>[0-9.]+)|fraction:(?P<share>[0-9.]+):(?P<floor>[0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Switches:
    """How a converted layer computes; the defaults are what the accelerator does.

    Parameters
    ----------
    projection : {"patch", "tap"}
        Form of P: (k, d) over the window as in the paper, or one (k / taps, C_in) for all taps.
    k : str
        Rows of P. ``jll:EPS``: min(d, 4 ln n / (EPS^2 / 2 - EPS^3 / 3)); ``fraction:SHARE:FLOOR``:
        min(d, max(SHARE * d, FLOOR)); ``full``: d. The paper says k << d and no more.
    identity : bool
        P is the identity in layers where k is the depth; else it stays random there, too.
    bits : {2, 4, 8, 16, 32}
        Of W~ (and of b~ with ``bias="int4"``), 32 meaning no rounding (paper, Table 5).
    input_bits : {2, 4, 8, 16, 32}
        Of x^Q and of the requantised P x^Q.
    requantise : bool
        Whether P x^Q is rounded to `input_bits` again, as a 4-bit multiplier needs it; the paper
        does not say.
    weight_scale : {"channel", "tensor"}
        One step of W~ for each output channel, or one for all.
    bias : {"int32", "int4"}
        b~ at the scale of the accumulator (exact here), or `bits` bits and a shift a channel.
    steps : {"calibrated", "dynamic"}
        Steps of x^Q and P x^Q: fixed once a calibration set them, or of each batch for ever.
    activation : {"none", "both", "essential"}
        A ReLU inside the layer: none (Eq. 2), on z and z~, or on z alone (Algorithm 2, line 6).
        Scheme ``dense`` never has one.
    score : {"value", "abs", "random", "inverse"}
        What ranks neurons: z~, |z~|, chance, or -z~ (paper, Figure 4).
    threshold : {"sample", "position", "static"}
        Unstructured: Top-K over the layer's outputs of each image, over the channels of each
        position, or a fixed theta a layer from :func:`sinai.model.steps.set_thresholds`.
    axis : {"channel", "position"}
        Structured: groups of consecutive channels at a position, or of positions of a channel.
    gradient : {"ste", "zero", "detach"}
        Of the noise: straight through the roundings, the true zero of rounding, or none at all. The
        mask is a constant in each.
    batch_norm : {"keep", "fold"}
        Batch-norms stay behind the layers and work on all of z', so selection is before them, or
        those that follow a convolution are folded into W and b, as for the accelerator.

    Raises
    ------
    InputError
        If a value is none of these.
    """

    projection: str = "patch"
    k: str = f"jll:{DISTORTION}"
    identity: bool = False
    bits: int = 4
    input_bits: int = 4
    requantise: bool = True
    weight_scale: str = "channel"
    bias: str = "int32"
    steps: str = "calibrated"
    activation: str = "none"
    score: str = "value"
    threshold: str = "sample"
    axis: str = "channel"
    gradient: str = "ste"
    batch_norm: str = "keep"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            known = _CHOICES.get(field.name)
            if field.name in ("bits", "input_bits"):
                known = _BITS
            elif field.name in ("identity", "requantise"):
                known = (False, True)
            if known and value not in known:
                names = ", ".join(map(str, known[:-1]))
                raise InputError(f"{field.name} must be {names} or {known[-1]}, not {value!r}")
        self.rows(2, 2)

    def rows(self, d: int, n: int) -> int:
        """Rows of P for depth `d` and `n` outputs by rule `k`, before the limit of d."""
        found = _DEPTH.fullmatch(self.k)
        try:
            if found and self.k == "full":
                return d
            if found and found["eps"] and 0 < float(found["eps"]) < 1:
                return k_jll(n, float(found["eps"]))
            if found and found["share"] and 0 < float(found["share"]) <= 1:
                return max(round(float(found["share"]) * d), int(found["floor"]), 1)
        except ValueError:  # two decimal points
            pass
        raise InputError(
            "k must be jll:EPS with EPS between 0 and 1, fraction:SHARE:FLOOR with SHARE in (0, 1],"
            f" or full, not {self.k!r}"
        )

    def depth(self, d: int, n: int, kernel: int) -> int:
        """k of a layer with depth `d`, `n` outputs and a `kernel` x `kernel` window."""
        return projected_depth(d, n, kernel, self.projection, self.rows(d, n))

    @property
    def weight_top(self) -> int:
        """Largest magnitude of W~: symmetric."""
        return (1 << (self.bits - 1)) - 1

    def input_range(self, unsigned: bool) -> tuple[int, int]:
        """Least and largest level of x^Q; those of P x^Q are the signed ones."""
        if unsigned:
            return 0, (1 << self.input_bits) - 1
        half = 1 << (self.input_bits - 1)
        return -half, half - 1
