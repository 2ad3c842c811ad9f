"""Rows of an experiment: what is asked for, and the mean and minimum over attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .attacks import ATTACKS
from .exp_plan import Point
from .exp_scales import Scale
from .robustness import worst

__all__ = ["mean", "row_of", "summarised"]

#: Columns that are measured.
_MEASURED = ("images", "clean", "straight_through", "as_in_paper", "worst_case", "shares")

#: What rows of one network and scheme have in common.
_GROUP = ("dataset", "network", "model", "method", "scheme", "variant")


def row_of(point: Point, scale: Scale, remark: str = "") -> dict[str, Any]:
    """The row of a point before anything is measured."""
    settings = replace(scale.settings, **dict(point.changes))
    return {
        "dataset": point.subject.dataset,
        "network": point.subject.network,
        "model": scale.recipes[point.subject.network].model,
        "method": point.subject.method,
        "scheme": point.scheme,
        "variant": point.variant,
        "attack": point.label,
        "kind": point.attack,
        "eps": None if point.attack == "none" else settings.eps,
        "steps": settings.steps if point.attack in ("pgd", "eot", "adaptive") else None,
        "data": None,
        "remark": remark,
        **dict.fromkeys(_MEASURED),
    }


def summarised(rows: Sequence[dict[str, Any]], wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Put the `wanted` rows behind those of each network and scheme: `average`, `all bounded`.

    The mean is over the attacks that the paper lists. `all bounded` is the minimum, image by image,
    over attacks that stay within eps.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in _GROUP), []).append(row)
    return [
        row
        for group in groups.values()
        for row in (*group, *(each for each in _summary(group) if each["attack"] in wanted))
    ]


def _summary(group: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = (*_GROUP, "data", "images", "clean", "remark")
    like = dict.fromkeys(group[0]) | {key: group[0][key] for key in kept}
    average = like | {"attack": "average", "kind": "average"}
    bounded = like | {"attack": "all bounded", "kind": "all bounded"}
    attacked = [row for row in group if row["kind"] != "none"]
    if any(row["shares"] is None for row in attacked):
        return [average, bounded]
    for column in ("straight_through", "as_in_paper", "worst_case"):
        values = [row[column] for row in attacked if row["attack"] != "C&W, c = 1"]
        if None not in values:
            average[column] = round(float(np.mean(values)), 4)
    within = [row["shares"] for row in attacked if ATTACKS[row["kind"]].bounded]
    paper = "straight-through" if group[0]["scheme"] == "dense" else "as-in-paper"
    for column, name in (
        ("straight_through", "straight-through"),
        ("as_in_paper", paper),
        ("worst_case", "worst"),
    ):
        found = [shares[name] for shares in within if name in shares]
        bounded[column] = mean(worst(found)) if found else None
    return [average, bounded]


def mean(shares: Mapping[str, Sequence[float]] | None) -> float | None:
    """What a network counts: the mean over images, to four digits."""
    return None if shares is None else round(float(np.mean(shares["right"])), 4)
