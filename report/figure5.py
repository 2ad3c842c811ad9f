"""Figure 5: every scheme on every machine, for three networks, from masks to one picture."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.machine import PRESETS
from .area import area_mm2, logic_um2
from .findings import findings, normalise, real_against_synthetic
from .points import COLUMNS, FEW_IMAGES, IMAGES, MACHINES, jobs, points, run_all
from .run import versions

__all__ = ["CAPTION", "figure5", "redraw", "table"]

#: Line under the figure.
CAPTION = (
    "Energies and areas of logic are assumed (scaled from Horowitz, ISSCC 2014); SRAM from CACTI 7,"
    " 45 nm. All values relative to dense on the unstructured machine. {masks}"
)


def figure5(
    out_dir: str | Path,
    *,
    traces: Sequence[Path] | None = None,
    progress: bool = True,
    networks: Sequence[str] | None = None,
    batch: int = 1,
    with_sweeps: bool = True,
    workers: int = 2,
    command: str = "",
) -> dict[str, Any]:
    """Write figure5.csv, figure5.png, figure5.svg and summary.json, and return the summary.

    Parameters
    ----------
    out_dir : path
        Made if it is not there.
    traces : sequence of path, optional
        Traces in place of the bundled ones of the same network, or of further networks. A network
        without traces gets synthetic ones, labelled so everywhere.
    progress : bool
        Show progress on standard error.
    networks : sequence of str, optional
        Leave out all others.
    batch : int
        Images that pass each layer together; every point is then of a batch.
    with_sweeps : bool
        Add the sweeps of ResNet-18 to the summary.
    workers : int
        Processes.
    command : str
        Kept in the summary; the command line of this process if empty.

    Raises
    ------
    InputError
        If a trace is bad or has fewer images than a batch, or two of them contradict each other.
    """
    began = time.perf_counter()
    out_dir = Path(out_dir)
    planned = jobs(traces, networks, batch)
    found = run_all(points, planned, workers=workers, progress=progress, label="figure 5")
    records = [record for each in found for record in each]
    full = normalise(pd.DataFrame(records))
    full = _in_order(full, list(dict.fromkeys(networks or [])))
    made = {
        "schema": 1,
        "command": command or " ".join(sys.argv),
        "versions": versions(),
        "clock_hz": {name: PRESETS[preset].clock_hz for name, (preset, *_) in MACHINES.items()},
        "batch": batch,
        "images_at_most": {"points": IMAGES, "sweeps and comparisons": FEW_IMAGES},
        "machines": {
            name: {
                "preset": preset,
                "simulator_only_bound": ideal,
                "multipliers_4_bit": PRESETS[preset].multipliers,
                "area_mm2": area_mm2(PRESETS[preset]),
                "logic_mm2": logic_um2(PRESETS[preset]) / 1e6,
                "sram_device": PRESETS[preset].memories.device,
            }
            for name, (preset, ideal, _) in MACHINES.items()
        },
        "assumed": sorted({name for record in records for name in record["assumed"]}),
        "findings": findings(full),
        "real_against_synthetic": real_against_synthetic(records),
        "traces": _traces(full),
    }
    if with_sweeps:
        from .sweeps import sweeps

        made["sweeps"] = sweeps(planned, workers=workers, progress=progress)
    rows = table(full)
    out_dir.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out_dir / "figure5.csv", index=False, lineterminator="\n")
    redraw(rows, out_dir, batch)
    made["wall_s"] = time.perf_counter() - began
    text = json.dumps(made, indent=2, allow_nan=False)
    (out_dir / "summary.json").write_text(text + "\n", encoding="utf-8")
    return made


def table(points: pd.DataFrame) -> pd.DataFrame:
    """The columns of figure5.csv, one row a point."""
    return points[list(COLUMNS)].reset_index(drop=True)


def redraw(rows: pd.DataFrame, out_dir: Path, batch: int = 1) -> None:
    """Draw figure5.png (300 dpi) and figure5.svg from the rows of figure5.csv, which are of batches
    of so many images."""
    import matplotlib

    from .plots import draw_figure5

    real = rows.loc[rows["real_trace"], "network"].unique()
    synthetic = rows.loc[~rows["real_trace"], "network"].unique()
    masks = f"Masks of {', '.join(real)} are real. " if len(real) else ""
    masks += f"Masks of {', '.join(synthetic)} are synthetic." if len(synthetic) else ""
    masks += f" Batches of {batch} images." if batch > 1 else ""
    # Equal tables give equal files: no date, and identifiers that do not change.
    with matplotlib.rc_context({"svg.hashsalt": "figure5", "svg.fonttype": "path"}):
        figure = draw_figure5(rows, CAPTION.format(masks=masks.strip()))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not for each file
        figure.savefig(out_dir / "figure5.png", dpi=300, metadata={"Software": None})
        figure.savefig(out_dir / "figure5.svg", metadata={"Date": None})


def _in_order(points: pd.DataFrame, networks: list[str]) -> pd.DataFrame:
    """Networks as in the figure, then machines, then kinds of scheme, then noise."""
    from .points import NETWORKS

    order = networks or list(NETWORKS)
    order += [name for name in points["network"].unique() if name not in order]
    keys = points.assign(
        _network=points["network"].map(order.index),
        _machine=points["machine"].map(list(MACHINES).index),
        _kind=points["scheme"].str.split(":").str[0],
    )
    keys = keys.sort_values(["_network", "_machine", "_kind", "noise_target"], kind="stable")
    return keys.drop(columns=["_network", "_machine", "_kind"]).reset_index(drop=True)


def _traces(points: pd.DataFrame) -> list[dict[str, Any]]:
    rows = points.drop_duplicates(["network", "scheme"])
    names = ["network", "scheme", "real_trace", "images", "digest"]
    return rows[names].to_dict("records")
