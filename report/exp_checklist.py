"""Signs of obfuscated gradients (Athalye et al. 2018, section 3.1): the paper's table 10, run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from operator import gt
from typing import Any

__all__ = ["COLUMNS", "checklist"]

#: Columns of the checklist; `sign` is True where the sign shows, None where nothing was run.
COLUMNS = ("network", "gradient", "item", "sign_of_masking", "sign", "figures", "paper")

#: The five items, as the paper's table words them.
_ITEMS = (
    "one-step attack performs better than iterative attacks",
    "black-box attacks are better than white-box attacks",
    "unbounded attacks do not reach 100 % success",
    "random sampling finds adversarial examples",
    "increasing distortion bound does not increase success",
)

_GRADIENTS = ("as-in-paper", "straight-through")


def checklist(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each network, gradient and item, with keys :data:`COLUMNS`.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of the experiment ``table10`` (:func:`sinai.model.exp_run.run`), with what every image
        counts. A network without noise has one gradient.
    """
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["scheme"]), {})[row["attack"]] = row
    found = []
    for (method, scheme), attacks in groups.items():
        for gradient in _GRADIENTS if scheme != "dense" else _GRADIENTS[1:]:
            judged = list(_judge(attacks, gradient))
            for number, (text, (sign, figures)) in enumerate(zip(_ITEMS, judged, strict=True), 1):
                network = method if scheme == "dense" else f"{method}, {scheme}"
                values = (network, gradient, number, text, sign, figures, "no sign")
                found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def _judge(
    attacks: Mapping[str, Mapping[str, Any]], gradient: str
) -> Iterator[tuple[bool | None, str]]:
    """Whether each item's sign shows, and the figures that say so."""
    if any(row["shares"] is None for row in attacks.values()):
        yield from [(None, "not run")] * len(_ITEMS)
        return

    def right(attack: str, gradient: str = gradient) -> Sequence[float]:
        return attacks[attack]["shares"][gradient]["right"]

    pgd, fgsm, square = right("PGD-20"), right("FGSM"), right("Square", "none")
    said = f"under PGD-20 {_pct(pgd)}"
    yield _better(fgsm, pgd), f"robust under FGSM {_pct(fgsm)}, {said}"
    yield _better(square, pgd), f"robust under Square {_pct(square)}, {said}"
    unbounded = right("unbounded PGD")
    yield any(unbounded), f"robust under PGD with eps = 1 {_pct(unbounded)}"
    more = sum(map(gt, pgd, right("random sampling", "none")))
    yield more > 0, f"{more} of {sum(map(bool, pgd))} images that PGD-20 leaves right"
    by_eps = {
        round(255 * row["eps"]): right(name)
        for name, row in sorted(attacks.items(), key=lambda item: item[1]["eps"] or 0)
        if row["kind"] == "pgd"
    }
    flat = any(0 < sum(by_eps[eps]) <= sum(by_eps[2 * eps]) for eps in by_eps if 2 * eps in by_eps)
    shown = ", ".join(f"{_pct(found)} at {eps}/255" for eps, found in by_eps.items())
    yield flat, f"robust {shown}"


def _better(weak: Sequence[float], strong: Sequence[float]) -> bool:
    """Whether the weaker attack breaks more images, beyond one standard error of the difference.

    That is sqrt(b + c) images, of which b are broken by the one alone and c by the other.
    """
    gained, lost = sum(map(gt, strong, weak)), sum(map(gt, weak, strong))
    return gained - lost > sqrt(gained + lost)


def _pct(right: Sequence[float]) -> str:
    return f"{100 * sum(right) / len(right):.1f} %"
