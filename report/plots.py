"""Figures. Each function draws on the axes or figure it is given and returns them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

__all__ = [
    "METRICS",
    "SERIES",
    "Series",
    "draw_correlation",
    "draw_figure5",
    "draw_tradeoff",
    "panel",
    "select",
]


@dataclass(frozen=True)
class Series:
    """One curve: the rows of a table it takes, and how it looks, in colour and without."""

    label: str
    machine: str
    masks: str  # first word of the scheme; dense belongs to all
    colour: str
    marker: str
    line: str


#: Curves of figure 5, colours of Okabe and Ito (2008), which colour-blind readers tell apart.
SERIES = (
    Series("unstructured", "unstructured", "unstructured", "#D55E00", "o", "-"),
    Series(
        "unstructured, ideal (bound)", "unstructured-ideal", "unstructured", "#E69F00", "x", "--"
    ),
    Series("structured, unstructured masks", "structured", "unstructured", "#CC79A7", "^", ":"),
    Series("structured", "structured", "structured", "#0072B2", "s", "-"),
    Series("structured, expanded", "structured-expanded", "structured", "#009E73", "D", "-."),
)

#: Column of the table, title of the panel, label of its axis.
METRICS = (
    ("bitops_norm", "BitOps"),
    ("latency_norm", "Latency"),
    ("energy_norm", "Energy"),
    ("edp_norm", "Energy-delay product"),
)


def select(table: pd.DataFrame, series: Series) -> pd.DataFrame:
    """Rows of one network that belong to `series`, dense included, by rising noise."""
    kind = table["scheme"].str.split(":").str[0]
    rows = table[(table["machine"] == series.machine) & kind.isin(["dense", series.masks])]
    return rows.sort_values("noise")


def panel(table: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """Draw `metric` of one network against the measured noise ratio, one line a series.

    BitOps do not depend on the machine: of series with the same masks the first is drawn.
    """
    drawn = set()
    for series in SERIES:
        rows = select(table, series)
        if rows.empty or (metric == "bitops_norm" and series.masks in drawn):
            continue
        drawn.add(series.masks)
        ax.plot(
            100 * rows["noise"],
            rows[metric],
            color=series.colour,
            marker=series.marker,
            linestyle=series.line,
            label=series.label,
            markersize=3.2,
            linewidth=1.1,
            markeredgewidth=0.9,
            fillstyle="none",
        )
    ax.set_xlim(-3, 103)
    if metric == "edp_norm":  # two orders of magnitude
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.08 * max(1, table[metric].max()))
    ax.set_xticks(range(0, 101, 25))
    ax.grid(color="0.9", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7)
    return ax


def draw_figure5(table: pd.DataFrame, caption: str, figure: Figure | None = None) -> Figure:
    """Draw figure 5: a row of panels for each network of `table`, in order of appearance.

    Parameters
    ----------
    table : DataFrame
        Rows of figure5.csv.
    caption : str
        Line under the panels.
    figure : Figure, optional
        Where to draw; a new one of a page's width by default.
    """
    networks = list(dict.fromkeys(table["network"]))
    height = 1.65 * len(networks) + 1.1
    figure = figure or Figure(figsize=(7.2, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.42 / height, 1, 1 - 0.87 / height))
    axes = figure.subplots(len(networks), len(METRICS), squeeze=False, sharex=True)
    for index, (row, network) in enumerate(zip(axes, networks, strict=True)):
        rows = table[table["network"] == network]
        for ax, (metric, title) in zip(row, METRICS, strict=True):
            panel(rows, metric, ax)
            if index == 0:
                ax.set_title(title, fontsize=8)
            if index == len(networks) - 1:
                ax.set_xlabel("noise ratio, measured [%]", fontsize=7)
        masks = "real masks" if rows["real_trace"].all() else "synthetic masks"
        row[0].set_ylabel(f"{network}\n({masks})\nrelative to dense [1]", fontsize=7)
    handles, labels = axes[0][1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper center", ncols=3, fontsize=7, frameon=False, handlelength=3.4
    )
    figure.text(0.01, 0.06 / height, caption, fontsize=6, va="bottom", ha="left", wrap=True)
    return figure


def draw_correlation(table: pd.DataFrame, caption: str) -> Figure:
    """Draw cycles of each layer in the RTL against those in the simulator, and the line of equals.

    Parameters
    ----------
    table : DataFrame
        Rows of validation.csv.
    caption : str
        Line under the plot.
    """
    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.17, 1, 0.83))
    ax = figure.subplots()
    rtl, simulated = table["rtl_edges"], table["simulated_edges"]
    low, high = 0.7 * min(rtl.min(), simulated.min()), 1.4 * max(rtl.max(), simulated.max())
    ax.plot([low, high], [low, high], color="0.6", linewidth=0.9, label="equal")
    same = rtl == simulated
    for rows, colour, marker, label in (
        (same, "#0072B2", "o", "layer, equal to the cycle"),
        (~same, "#D55E00", "x", "layer that differs"),
    ):
        if rows.any():
            ax.plot(
                simulated[rows],
                rtl[rows],
                color=colour,
                marker=marker,
                linestyle="",
                markersize=4,
                fillstyle="none",
                label=f"{label} ({rows.sum()})",
            )
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set_xlabel("simulator [cycles]", fontsize=8)
    ax.set_ylabel("RTL [cycles]", fontsize=8)
    ax.grid(color="0.9", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    figure.text(0.02, 0.02, caption, fontsize=6, va="bottom", ha="left", wrap=True)
    return figure


def draw_tradeoff(table: pd.DataFrame, caption: str) -> Figure:
    """Draw accuracy against EDP, a panel a machine: clean, attacked as in the paper, worst case.

    Parameters
    ----------
    table : DataFrame
        Rows of tradeoff.csv.
    caption : str
        Line under the panels.
    """
    figure = Figure(figsize=(7.2, 3.7), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.11, 1, 0.89))
    drawn = [series for series in (SERIES[0], SERIES[3]) if len(select(table, series))]
    axes = figure.subplots(1, len(drawn), sharex=True, sharey=True, squeeze=False)[0]
    for ax, series in zip(axes, drawn, strict=True):
        rows = select(table, series)
        for name, label, style in (
            ("clean", "clean", {"alpha": 0.4, "linestyle": "-", "fillstyle": "full"}),
            ("as_in_paper", "as in paper", {"linestyle": ":", "fillstyle": "none"}),
            ("worst_case", "worst case", {"linestyle": "-", "fillstyle": "full"}),
        ):
            ax.errorbar(
                rows["edp_norm"],
                100 * rows[name],
                100 * rows[f"{name}_se"],
                label=label,
                color=series.colour,
                marker=series.marker,
                markersize=4,
                linewidth=1.1,
                elinewidth=0.7,
                capsize=1.5,
                **style,
            )
        for _, row in rows.iterrows():
            ax.annotate(
                row["scheme"].partition(":")[2] or "dense",
                (row["edp_norm"], 100 * (row["clean"] + row["clean_se"])),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=6,
            )
        ax.set_title(f"{series.machine} machine", fontsize=8)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.set_ylim(-3, 103)
        ax.set_xlabel("EDP relative to dense on the unstructured machine [1]", fontsize=7)
        ax.grid(color="0.9", linewidth=0.5)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
        ax.legend(fontsize=7, frameon=False, loc="best")
    axes[0].set_ylabel("accuracy [%]", fontsize=7)
    figure.text(0.01, 0.02, caption, fontsize=6, va="bottom", ha="left", wrap=True)
    return figure
