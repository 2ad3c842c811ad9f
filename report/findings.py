"""The paper's findings about hardware, restated as checks on the points of figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .plots import SERIES, select

__all__ = ["FALLS_FROM", "findings", "normalise", "real_against_synthetic", "same_ratio"]

_MEASURES = {
    "latency_norm": "latency_s",
    "energy_norm": "energy_pj",
    "edp_norm": "edp_js",
    "bitops_norm": "bitops",
}

#: Noise from which latency, energy and EDP must not rise any more; below it the approximate pass
#: and imbalance can cost more than they save.
FALLS_FROM = 0.3


def normalise(points: pd.DataFrame) -> pd.DataFrame:
    """Add the columns relative to `dense` on the unstructured machine of the same network."""
    dense = points[(points["machine"] == "unstructured") & (points["scheme"] == "dense")]
    dense = dense.set_index("network")
    added = {
        norm: points[name] / points["network"].map(dense[name]) for norm, name in _MEASURES.items()
    }
    return points.assign(**added)


def findings(points: pd.DataFrame) -> dict[str, Any]:
    """Findings of each network: what falls with noise, structured against unstructured, expanded
    against structured, and what the cycles at 7:8 go to."""
    return {
        network: _of_network(points[points["network"] == network])
        for network in dict.fromkeys(points["network"])
    }


def same_ratio(points: pd.DataFrame) -> list[dict[str, Any]]:
    """q:8 on the structured machines against the unstructured one at the ratio q/8.

    At a ratio that was not simulated, which the row says (`interpolated`), latency and energy are
    interpolated linearly in the measured noise, and EDP is their product: it lies below its own
    chords. Beyond the last simulated ratio nothing is known, and there is no row. The machine
    without idle slots (`ideal`) has points at the same ratios as the one as built.
    """
    unstructured = select(points, SERIES[0])
    ideal = select(points, SERIES[1])
    rows = []
    for series in SERIES[3:]:
        for _, row in select(points, series).iterrows():
            noise = row["noise"]
            simulated = bool(np.isclose(unstructured["noise"], noise, atol=2e-3).any())
            beyond = not simulated and noise > unstructured["noise"].max()
            if row["scheme"] == "dense" or beyond:
                continue
            found = {
                "machine": series.machine,
                "scheme": row["scheme"],
                "noise": noise,
                "interpolated": not simulated,
            }
            for against, curve in (("unstructured", unstructured), ("ideal", ideal)):
                for name, value in _at(curve, noise, simulated).items():
                    found[f"{name}_over_{against}"] = row[f"{name}_norm"] / value
            rows.append(found)
    return rows


def _at(curve: pd.DataFrame, noise: float, simulated: bool) -> dict[str, float]:
    """Latency, energy and EDP of a curve at `noise`, normalised."""
    values = {
        name: float(np.interp(noise, curve["noise"], curve[f"{name}_norm"]))
        for name in ("latency", "energy", "edp")
    }
    if not simulated:
        values["edp"] = values["latency"] * values["energy"]
    return values


def real_against_synthetic(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cycles on the unstructured machine, real masks and synthetic ones of equal density."""
    return [
        {
            "network": record["network"],
            "scheme": record["scheme"],
            "noise": record["noise"],
            "real_cycles": record["cycles"],
            "synthetic_cycles": record["synthetic_cycles"],
            "relative_error": record["synthetic_cycles"] / record["cycles"] - 1,
        }
        for record in records
        if "synthetic_cycles" in record
    ]


def _of_network(points: pd.DataFrame) -> dict[str, Any]:
    return {
        "real_trace": bool(points["real_trace"].all()),
        "falls_with_noise_from": FALLS_FROM,
        "falls_with_noise": {
            series.label: {
                name: _falls(select(points, series), f"{name}_norm")
                for name in ("latency", "energy", "edp")
            }
            for series in SERIES
        },
        "same_ratio": same_ratio(points),
        "at_7_of_8": {
            row["machine"]: {
                **{f"{name}_norm": row[f"{name}_norm"] for name in ("latency", "energy", "edp")},
                "bitops_norm_exact": row["bitops_norm"],
                "bitops_norm_paper": row["bitops_paper_norm"],
                "busy_share": row["busy_cycles"] / row["cycles"],
                "stall_share": {
                    cause: cycles / row["cycles"] for cause, cycles in row["stalls"].items()
                },
                "slot_share": _shares(row["slots"]),
            }
            for _, row in points.iterrows()
            if row["scheme"] in ("structured:7:8", "unstructured:0.875")
            and not (row["machine"] == "structured" and row["scheme"] == "unstructured:0.875")
        },
        "energy_norm_by_sram_device": _by_device(points),
    }


def _falls(rows: pd.DataFrame, name: str) -> bool:
    values = rows.loc[rows["noise"] >= FALLS_FROM - 2e-3, name].to_numpy()
    return bool(np.all(np.diff(values) <= 0))


def _shares(counts: dict[str, float]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def _by_device(points: pd.DataFrame) -> dict[str, Any]:
    """Energy of each point at noise 7/8 relative to dense on the unstructured machine, by SRAM."""
    dense = points[(points["machine"] == "unstructured") & (points["scheme"] == "dense")].iloc[0]
    picked = points[points["scheme"].isin(["structured:7:8", "unstructured:0.875"])]
    return {
        device: {
            f"{row['machine']} {row['scheme']}": row["energy_by_device_pj"][device] / energy
            for _, row in picked.iterrows()
            if device in row["energy_by_device_pj"]
        }
        for device, energy in dense["energy_by_device_pj"].items()
    }
