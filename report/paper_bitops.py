"""The BitOPs that the paper prints, and what follows from their digits."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources

from ..common.scheme import Scheme

__all__ = ["BASES", "Printed", "base_interval", "figures", "interval", "to_digits"]

#: BitOPs of the dense network behind each table's relative figures. Tables 1 and 6 print 2.60e9;
#: their rows come out only from 2.6019e9 to 2.6039e9 (:func:`base_interval`), not from 2.600e9. The
#: other two are as printed.
BASES = {
    "1": Fraction(2_603_000_000),
    "2": Fraction(28_100_000_000),
    "4": Fraction(3_340_000_000_000),
    "6": Fraction(2_603_000_000),
}


@dataclass(frozen=True)
class Printed:
    """One figure of a table of the paper.

    Parameters
    ----------
    table : str
        Number of the table.
    dataset, method : str
        Its row.
    network : str
        Geometry that we count, a key of :data:`sinai.traces.networks.NETWORKS`.
    scheme : Scheme or None
        None for methods whose cost cannot be derived from the paper.
    bitops : str
        As printed, for example ``4.52e8``.
    saving_pct : str
        BitOPs saved in percent, as printed; empty if the table does not say.
    """

    table: str
    dataset: str
    network: str
    method: str
    scheme: Scheme | None
    bitops: str
    saving_pct: str


@cache
def figures() -> tuple[Printed, ...]:
    """Every BitOPs figure of tables 1, 2, 4 and 6, in the order of the paper."""
    text = (resources.files(__package__) / "data" / "paper_bitops.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        Printed(**row | {"scheme": Scheme.parse(row["scheme"]) if row["scheme"] else None})
        for row in csv.DictReader(lines)
    )


def to_digits(value: Fraction | float, digits: int = 3) -> str:
    """Return a positive `value` as the tables print it: ``4.52e8``, rounded half up."""
    value = Fraction(value)
    exponent = 0
    while value >= 10:
        value, exponent = value / 10, exponent + 1
    while value < 1:
        value, exponent = value * 10, exponent - 1
    steps = int(value * 10 ** (digits - 1) + Fraction(1, 2))
    if steps == 10**digits:  # 9.999 is printed 1.00e1
        steps, exponent = steps // 10, exponent + 1
    return f"{steps / 10 ** (digits - 1):.{digits - 1}f}e{exponent}"


def interval(printed: str) -> tuple[Fraction, Fraction]:
    """Smallest value that rounds to `printed`, and the first that does not any more."""
    mantissa, exponent = printed.split("e")
    decimals = len(mantissa.partition(".")[2])
    half = Fraction(10) ** (int(exponent) - decimals) / 2
    below = half / 10 if Fraction(mantissa) == 1 else half  # digits are finer below 1.00
    return Fraction(printed) - below, Fraction(printed) + half


def base_interval(ratios: Iterable[tuple[Fraction, str]]) -> tuple[Fraction, Fraction]:
    """Dense BitOPs for which every ``(relative cost, printed figure)`` comes out digit for digit.

    The first value is inside, the second is not; the interval is empty if the second is not the
    larger one.
    """
    low, high = Fraction(0), None
    for ratio, printed in ratios:
        least, most = (bound / ratio for bound in interval(printed))
        low, high = max(low, least), most if high is None else min(high, most)
    if high is None:
        raise ValueError("Ratios must not be empty")
    return low, high
