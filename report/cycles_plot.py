"""Bars of where the cycles go. Each function draws and returns a figure.

Told apart without colour too: a cause has a colour of Okabe and Ito (2008) and a pattern, and
everything of APPROXIMATE is hatched with slanted lines.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .cycles import TAXONOMY, totals

__all__ = ["bars", "draw_cycles", "draw_sweeps", "save"]

_DARK, _LIGHT, _WAIT, _BRIGHT = "#0072B2", "#B5DDF3", "#D55E00", "#F0E442"

#: Phase and cause to colour and hatch.
_LOOK: dict[tuple[str, str], tuple[str, str]] = {
    ("exact", "useful"): (_DARK, ""),
    ("exact", "idle"): (_LIGHT, ""),
    ("approximate", "useful"): (_DARK, "////"),
    ("approximate", "idle"): (_LIGHT, "////"),
    ("approximate", "rpu"): ("#E69F00", "////"),
    ("approximate", "shallow"): (_WAIT, "////"),
    ("exact", "select"): ("#CC79A7", "----"),
    ("exact", "scan"): ("#009E73", "||||"),
    ("exact", "xbank"): (_BRIGHT, "...."),
    ("exact", "shallow"): (_WAIT, "xxxx"),
    ("ends", "dma"): ("#666666", "oo"),
    ("ends", "fill"): ("#000000", ""),
    ("ends", "drain"): ("#000000", ""),
}
assert _LOOK.keys() == TAXONOMY.keys()

#: Words of the legend where the names of phase and cause do not do.
_LABELS = {
    ("exact", "useful"): "EXACT, useful",
    ("exact", "idle"): "EXACT, idle slots",
    ("approximate", "useful"): "APPROXIMATE, useful",
    ("approximate", "idle"): "APPROXIMATE, idle slots",
    ("approximate", "rpu"): "rpu: waits for p",
    ("approximate", "shallow"): "shallow, in APPROXIMATE",
    ("exact", "select"): "select: waits for the mask",
    ("exact", "scan"): "scan: waits for the scanner",
    ("exact", "xbank"): "xbank: waits for x words",
    ("exact", "shallow"): "shallow, in EXACT: waits for weights",
    ("ends", "dma"): "dma",
    ("ends", "fill"): "fill and drain",
}

#: Share of a bar from which its number is written into it.
_WRITTEN = 0.04


def bars(values: pd.DataFrame, ax: Axes, *, scale: float = 1.0, written: bool = False) -> Axes:
    """Draw a horizontal stacked bar for each row of `values`, columns as in `TAXONOMY`, from top to
    bottom; lengths are multiplied by `scale`. `written` puts the share of a bar into its parts."""
    lefts = pd.Series(0.0, values.index)
    for entry, (colour, hatch) in _LOOK.items():
        widths = values[entry] * scale
        drawn = ax.barh(
            range(len(values)),
            widths,
            left=lefts.to_numpy(),
            height=0.76,
            color=colour,
            hatch=hatch,
            edgecolor=_edge(colour),
            linewidth=0.3,
        )
        for bar, width, whole in zip(drawn, widths, values.sum(axis=1) * scale, strict=True):
            if written and width >= _WRITTEN * whole:
                text = ax.text(
                    bar.get_x() + width / 2,
                    bar.get_y() + bar.get_height() / 2,
                    f"{width / whole:.0%}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                )
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
        lefts += widths
    ax.set_yticks(range(len(values)), [str(name) for name in values.index])
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.tick_params(labelsize=6.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.9", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def draw_cycles(table: pd.DataFrame) -> Figure:
    """Draw one run of `sinai.report.cycles.cycles`: the network as one bar, in per cent, and a bar
    a layer, in thousands of cycles."""
    first = table.iloc[0]
    by_layer, whole = totals(table, "layer"), totals(table)
    height = 2.1 + 0.17 * len(by_layer)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    top, lower = figure.subplots(2, 1, height_ratios=[1.4, len(by_layer)])
    count = whole.iloc[0].sum()
    whole.index = ["all layers"]
    bars(whole, top, scale=100 / count, written=True)
    top.set_xlim(0, 100)
    top.set_xlabel("share of cycles [%]", fontsize=7)
    bars(by_layer, lower, scale=1e-3)
    lower.set_xlabel("cycles of one image [thousands]", fontsize=7)
    masks = "real masks" if first["real_trace"] else "synthetic masks"
    masks = "no masks" if first["scheme"] == "dense" else masks
    figure.suptitle(
        f"{first['network']} on {first['machine']}, {first['scheme']}, {masks}: {count:,.0f} cycles"
        f" an image, mean of {first['images']}",
        fontsize=8,
    )
    _legend(figure, whole)
    return figure


def draw_sweeps(panels: dict[str, pd.DataFrame]) -> Figure:
    """Draw a panel for each sweep, title to bars: a row a setting, columns as in `TAXONOMY`, in
    thousands of cycles of one image."""
    sizes = [len(values) for values in panels.values()]
    figure = Figure(
        figsize=(7.2, 1.0 + 0.62 * len(sizes) + 0.15 * sum(sizes)), layout="constrained"
    )
    axes = figure.subplots(
        len(sizes), 1, height_ratios=[size + 1 for size in sizes], squeeze=False
    )[:, 0]
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        bars(values, ax, scale=1e-3)
        ax.set_title(title, fontsize=7.5, loc="left")
    axes[-1].set_xlabel("cycles of one image [thousands]", fontsize=7)
    _legend(figure, pd.concat(panels.values()))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of 200 dpi; equal figures give equal files."""
    with matplotlib.rc_context({"hatch.linewidth": 0.5}):
        figure.savefig(path, dpi=200, metadata={"Software": None})


def _edge(colour: str) -> str:
    """Colour of the pattern: white, or dark on what is too bright for it."""
    return "0.3" if colour == _BRIGHT else "white"


def _legend(figure: Figure, values: pd.DataFrame) -> None:
    """Name what occurs in `values`."""
    seen = values.sum() > 0
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=_edge(colour), label=_LABELS[entry])
        for entry, (colour, hatch) in _LOOK.items()
        if seen[entry] and entry in _LABELS
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        fontsize=6.5,
        frameon=False,
        handlelength=2.6,
        handleheight=1.1,
    )
