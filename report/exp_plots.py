"""Figures 3 and 4 of the paper's evaluation, from rows of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["FIGURES", "draw_fig3", "draw_fig4"]

Rows = Sequence[Mapping[str, Any]]

#: Column or network: label, colour of Okabe and Ito (2008), marker, line. Told apart in grey, too.
_LINES = {
    "clean": ("SINAI, clean", "#000000", "x", "-"),
    "as_in_paper": ("SINAI, gradient as in paper", "#E69F00", "o", ":"),
    "straight_through": ("SINAI, straight-through", "#D55E00", "^", "--"),
    "worst_case": ("SINAI, worst case", "#0072B2", "s", "-"),
    "OAT": ("OAT, worst case", "#009E73", "D", "-."),
}


def draw_fig3(rows: Rows, caption: str) -> Figure:
    """Draw robust accuracy against eps and against steps of PGD, a row of panels a data set.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of the experiment ``fig3`` (:func:`sinai.model.exp_run.run`).
    caption : str
        Line under the panels.
    """
    pgd = [row for row in rows if row["kind"] == "pgd" and row["clean"] is not None]
    datasets = list(dict.fromkeys(row["dataset"] for row in pgd))
    figure, axes = _panels(len(datasets), caption)
    usual = min((row["eps"] for row in pgd), key=lambda eps: abs(255 * eps - 8), default=0)
    for pair, dataset in zip(axes, datasets, strict=True):
        here = [row for row in pgd if row["dataset"] == dataset]
        for ax, chosen, x, label in (
            (pair[0], [r for r in here if r["steps"] == 20], _eps, "eps of PGD-20 [1/255]"),
            (pair[1], [r for r in here if r["eps"] == usual], _steps, "steps at eps 8/255"),
        ):
            sinai = [row for row in chosen if row["method"] == "SINAI"]
            for column in ("as_in_paper", "straight_through", "worst_case"):
                _line(ax, sinai, x, column, column)
            _line(ax, [r for r in chosen if r["method"] == "OAT"], x, "worst_case", "OAT")
            ax.set_xticks(sorted({x(row) for row in chosen}))
            ax.set_xlabel(label, fontsize=7)
        pair[0].set_ylabel(f"{dataset}\nrobust accuracy [%]", fontsize=7)
    return _legend(figure, axes)


def draw_fig4(rows: Rows, caption: str) -> Figure:
    """Draw accuracy against the ratio of noise, in the non-essential and in the essential neurons.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of the experiment ``fig4``. At 0 stands OAT, the network without noise.
    caption : str
        Line under the panels.
    """
    seen = [row for row in rows if row["clean"] is not None and row["kind"] == "pgd"]
    datasets = list(dict.fromkeys(row["dataset"] for row in seen))
    figure, axes = _panels(len(datasets), caption)
    for pair, dataset in zip(axes, datasets, strict=True):
        here = [row for row in seen if row["dataset"] == dataset]
        for ax, variant, label in (
            (pair[0], "", "noise in non-essential neurons [%]"),
            (pair[1], "inverted selection", "noise in essential neurons [%]"),
        ):
            chosen = [r for r in here if r["method"] == "OAT" or r["variant"] == variant]
            for column in ("clean", "as_in_paper", "straight_through", "worst_case"):
                _line(ax, chosen, _ratio, column, column)
            ax.set_xlabel(label, fontsize=7)
        pair[0].set_ylabel(f"{dataset}\naccuracy [%]", fontsize=7)
    return _legend(figure, axes)


def _eps(row: Mapping[str, Any]) -> float:
    return round(255 * row["eps"], 6)


def _steps(row: Mapping[str, Any]) -> float:
    return row["steps"]


def _ratio(row: Mapping[str, Any]) -> float:
    return 0.0 if row["scheme"] == "dense" else 100 * float(row["scheme"].split(":")[1])


def _line(
    ax: Axes, rows: Rows, x: Callable[[Mapping[str, Any]], float], column: str, look: str
) -> None:
    label, colour, marker, line = _LINES[look]
    points = sorted((x(row), 100 * row[column]) for row in rows)
    ax.plot(
        *zip(*points, strict=True),
        label=label,
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=4,
        linewidth=1.1,
        fillstyle="none",
    )


def _panels(count: int, caption: str) -> tuple[Figure, Any]:
    height = 2.3 * max(count, 1) + 0.9
    figure = Figure(figsize=(7.2, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.3 / height, 1, 1 - 0.6 / height))
    axes = figure.subplots(count, 2, squeeze=False, sharey=True) if count else []
    for ax in (ax for pair in axes for ax in pair):
        ax.grid(color="0.9", linewidth=0.5)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
    figure.text(0.01, 0.06 / height, caption, fontsize=6, va="bottom", ha="left", wrap=True)
    return figure, axes


def _legend(figure: Figure, axes: Any) -> Figure:
    if len(axes):
        tops = [ax.get_ylim()[1] for pair in axes for ax in pair]
        for ax in (ax for pair in axes for ax in pair):
            ax.set_ylim(-0.03 * max(tops), max(tops))
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper center", ncols=len(labels), fontsize=6.5, frameon=False
        )
    return figure


#: How each experiment that the paper shows as a figure is drawn.
FIGURES = {"fig3": draw_fig3, "fig4": draw_fig4}
