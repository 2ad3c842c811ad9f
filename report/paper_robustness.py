"""The accuracies that the paper prints in its tables 1 to 9, 11 and 12."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["Printed", "figures", "lookup"]


@dataclass(frozen=True)
class Printed:
    """One accuracy that the paper prints.

    Parameters
    ----------
    table : str
        Experiment that it belongs to: ``table1`` to ``table12``, ``fig3``.
    dataset : str
        As the paper names it; empty where it names none.
    network, method, scheme, variant : str
        What was attacked, as in :class:`sinai.model.exp_plan.Point`.
    attack : str
        ``none`` for clean accuracy, ``average`` for the mean that a table gives.
    pct : str
        As printed, in percent.
    """

    table: str
    dataset: str
    network: str
    method: str
    scheme: str
    variant: str
    attack: str
    pct: str


@cache
def figures(table: str) -> tuple[Printed, ...]:
    """Every accuracy of one table, in the order of the paper."""
    file = resources.files(__package__) / "data" / "paper_robustness.csv"
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("#")]
    return tuple(Printed(**row) for row in csv.DictReader(lines) if row["table"] == table)


def lookup(
    table: str, dataset: str, network: str, method: str, scheme: str, variant: str, attack: str
) -> str:
    """The printed accuracy of this row, in percent; empty if the paper has none.

    Tables that name no data set are found under each.
    """
    for dataset_or_none in (dataset, ""):
        wanted = (table, dataset_or_none, network, method, scheme, variant, attack)
        for each in figures(table):
            if wanted == (
                each.table, each.dataset, each.network, each.method, each.scheme, each.variant,
                each.attack,
            ):  # fmt: skip
                return each.pct
    return ""
