"""BitOPs of a network: the paper's cost of arithmetic, with no machine in it.

One 4-bit multiplication is 16 BitOps and one 4-bit addition 4 (paper, note under figure 5), so a
16-bit multiplication is 256 and an addition 16: 272 a 16-bit multiply-accumulate, 20 a 4-bit one.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ..common.errors import InputError
from ..common.layer import Layer

__all__ = ["MAC4", "MAC16", "RULES", "bitops", "paper_ratio"]

#: BitOps of a multiply-accumulate.
MAC16 = 256 + 16
MAC4 = 16 + 4

#: `exact` counts what is computed; `paper` charges the approximate pass at full depth (k = d) and
#: projection, requantisation and selection nothing, which gives the paper's table 6.
RULES = ("exact", "paper")


def bitops(
    layers: Sequence[Layer],
    essential: Fraction | float | Sequence[float] | None,
    *,
    rule: str = "exact",
) -> float:
    """Return the BitOps of one image through `layers`.

    With n output channels, pos output pixels and E essential neurons, a layer costs by rule
    `exact` 272 d E + 20 n k pos + 4 nnz(P) pixels + 16 k pos + 4 n pos: exact pass, approximate
    pass, projection (`pixels` are output pixels, for `tap` input pixels), requantisation of P x^Q,
    comparison. By rule `paper` it costs 272 d E + 20 n d pos.

    Parameters
    ----------
    layers : sequence of Layer
    essential : float, sequence of float or None
        Essential share of all layers, in [0, 1], or essential neurons of each; None for the dense
        network, which has no approximate pass.
    rule : {"exact", "paper"}

    Raises
    ------
    InputError
        If the rule is unknown, the share is out of range or there is not one number a layer.
    """
    if rule not in RULES:
        raise InputError(f"--rule must be one of {', '.join(RULES)}, not {rule!r}")
    if essential is None:
        return sum(MAC16 * layer.macs for layer in layers)
    if isinstance(essential, Sequence):
        counts = list(essential)
    else:
        if not 0 <= essential <= 1:
            raise InputError(f"essential share must be between 0 and 1, not {essential}")
        counts = [float(essential) * layer.neurons for layer in layers]
    if len(counts) != len(layers):
        raise InputError(f"essential must have {len(layers)} numbers, not {len(counts)}")
    return sum(_layer(*pair, rule) for pair in zip(layers, counts, strict=True))


def paper_ratio(noise: Fraction | float) -> Fraction | float:
    """BitOps relative to dense by the paper's rule: (1 - r) + 20/272 at noise ratio r; exact if r
    is a fraction."""
    return 1 - noise + Fraction(MAC4, MAC16)


def _layer(layer: Layer, essential: float, rule: str) -> float:
    exact = MAC16 * layer.d * essential
    if rule == "paper":
        return exact + MAC4 * layer.macs
    projected = layer.pixels if layer.projection == "patch" else layer.h_in * layer.w_in
    return (
        exact
        + MAC4 * layer.neurons * layer.k
        + 4 * layer.projection_nonzeros * projected
        + 16 * layer.k * layer.pixels
        + 4 * layer.neurons
    )
