"""Signs of obfuscated gradients (Athalye et al. 2018, section 3.1): the paper's table 10, run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
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

    def robust(attack: str, gradient: str = gradient) -> float:
        right = attacks[attack]["shares"][gradient]["right"]
        return sum(right) / len(right)

    pgd = robust("PGD-20")
    fgsm, square, unbounded = robust("FGSM"), robust("Square", "none"), robust("unbounded PGD")
    yield fgsm < pgd, f"robust under FGSM {_pct(fgsm)}, under PGD-20 {_pct(pgd)}"
    yield square < pgd, f"robust under Square {_pct(square)}, under PGD-20 {_pct(pgd)}"
    yield unbounded > 0, f"robust under PGD with eps = 1 {_pct(unbounded)}"
    left = attacks["PGD-20"]["shares"][gradient]["right"]
    drawn = attacks["random sampling"]["shares"]["none"]["right"]
    more = sum(a > b for a, b in zip(left, drawn, strict=True))
    yield more > 0, f"{more} of {sum(a > 0 for a in left)} images that PGD-20 leaves right"
    by_eps = sorted(
        (row["eps"], robust(name)) for name, row in attacks.items() if row["kind"] == "pgd"
    )
    rises = any(after > before for (_, before), (_, after) in pairwise(by_eps))
    shown = ", ".join(f"{_pct(value)} at {255 * eps:.3g}/255" for eps, value in by_eps)
    yield rises, f"robust {shown}"


def _pct(share: float) -> str:
    return f"{100 * share:.1f} %"
