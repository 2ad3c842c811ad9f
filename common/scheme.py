"""Noise schemes: which share of a layer's neurons keeps the approximate value as noise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from .errors import InputError

__all__ = ["GROUP", "Scheme"]

#: Channels of a group in structured noise, the M of N:M (paper, appendix B).
GROUP = 8

#: A decimal number or a fraction such as 7/9; exponents could ask for gigabytes of digits.
_RATIO = re.compile(r"-?([0-9]*\.)?[0-9]+(/[0-9]+)?")

_FORMS = "dense, unstructured:RATIO with RATIO in [0, 1], or structured:Q:8 with Q in 0..8"


@dataclass(frozen=True)
class Scheme:
    """A noise scheme.

    Parameters
    ----------
    kind : str
        ``dense``: every neuron exact, no approximate pass. ``unstructured``: the neurons with the
        largest approximate value of a layer are exact. ``structured``: N of every M consecutive
        channels of a pixel are exact.
    ratio : Fraction
        Share of noisy neurons, in [0, 1].
    group : int
        M; 0 for schemes without groups.
    """

    kind: str
    ratio: Fraction
    group: int = 0

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read ``dense``, ``unstructured:0.9``, ``unstructured:7/9`` or ``structured:7:8``.

        Raises
        ------
        InputError
            If `text` is none of these, or its numbers are out of range.
        """
        kind, *numbers = text.split(":")
        try:
            if kind == "dense" and not numbers:
                return cls("dense", Fraction(0))
            if kind == "unstructured" and len(numbers) == 1 and _RATIO.fullmatch(numbers[0]):
                ratio = Fraction(numbers[0])
                if 0 <= ratio <= 1:
                    return cls(kind, ratio)
                raise InputError(
                    f"scheme {text!r}: the noise ratio must be between 0 and 1, not {numbers[0]}"
                )
            if kind == "structured" and len(numbers) == 2:
                noisy, group = int(numbers[0]), int(numbers[1])
                if group < 1:
                    raise InputError(f"scheme {text!r}: M must be at least 1, not {group}")
                if not 0 <= noisy <= group:
                    raise InputError(
                        f"scheme {text!r}: q noisy of {group} must be between 0 and {group},"
                        f" not {noisy}"
                    )
                return cls(kind, Fraction(noisy, group), group)
        except (ValueError, ZeroDivisionError) as error:
            if isinstance(error, InputError):
                raise
        raise InputError(f"scheme must be {_FORMS}, not {text!r}")

    def __str__(self) -> str:
        if self.kind == "dense":
            return "dense"
        if self.kind == "structured":
            return f"structured:{self.noisy_of_group}:{self.group}"
        decimal = f"{float(self.ratio):g}"
        return f"unstructured:{decimal if Fraction(decimal) == self.ratio else self.ratio}"

    @property
    def dense(self) -> bool:
        return self.kind == "dense"

    @property
    def structured(self) -> bool:
        return self.kind == "structured"

    @cached_property
    def noisy_of_group(self) -> int:
        """q, the noisy channels of a group."""
        return int(self.ratio * self.group)

    @cached_property
    def essential_of_group(self) -> int:
        """N = M - q, the essential channels of a full group."""
        return self.group - self.noisy_of_group

    def essential_count(self, neurons: int) -> int:
        """K, the neurons of a layer that an unstructured scheme keeps exact (rounded half up)."""
        return int((1 - self.ratio) * neurons + Fraction(1, 2))
