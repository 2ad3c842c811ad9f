"""Sweeps that explain ResNet-18 at high noise: by noise ratio, T, beta and W, each with its causes.

The paper's appendix C says of figure 5 that structured noise gains less there "due to the alignment
and the reliance on minimum pipeline depth". Here the same is a count of cycles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.machine import PRESETS, override
from ..common.scheme import Scheme
from ..traces.schema import bundled
from .area import area_mm2
from .cycles import NETWORK, TAXONOMY, causes
from .findings import normalise, same_ratio
from .plots import SERIES, select
from .points import FEW_IMAGES, Job, jobs, open_trace, points, replay, run_all
from .run import summary
from .sweeps import Case, cases

__all__ = ["comparison", "draw", "markdown", "sweep", "sweep_cases", "write_sweeps"]

#: Schemes at which both granularities have the same ratio, and dense.
_COMPARED = (
    "dense",
    *(f"structured:{q}:8" for q in (4, 6, 7)),
    *(f"unstructured:{ratio}" for ratio in (0.5, 0.75, 0.8, 0.875, 0.9)),
)

#: Networks of the comparison: the exception, and one that is none.
_NETWORKS = (NETWORK, "wrn34_10")

#: Sweep to the title of its panel and table.
_TITLES = {
    "ratio": "noise ratio, structured machine as published",
    "structured_shape": "columns T and weight words beta, 8192 multipliers, structured:7:8",
    "expanded": "structured-expanded as published, 16384 multipliers, structured:7:8",
    "window": "window W with and without placement, unstructured:0.875",
}


def sweep_cases() -> list[Case]:
    """Every simulation: those of figure 5's sweeps of T, beta and W, and by noise ratio."""
    planned = jobs(None, [NETWORK])
    paths = bundled()
    made = [
        Case(
            "ratio",
            "structured",
            f"structured:{q}:8",
            path=paths[f"{NETWORK}-structured-{q}-8"],
        )
        for q in range(1, 8)
    ]
    shared = cases(planned)
    shapes = [case for case in shared if case.sweep == "structured_shape"]
    for first in (case for case in shapes if case.overrides[-1] == "weight_words=1"):
        # Those of figure 5 with one and two weight words, then loads that no block waits for.
        made += [case for case in shapes if case.overrides[:-1] == first.overrides[:-1]]
        made += [
            replace(first, overrides=(*first.overrides[:-1], f"weight_words={beta}"))
            for beta in (4, 8)
        ]
    sparse = shapes[0]
    made += [Case("expanded", "structured-expanded", sparse.scheme, path=sparse.path)]
    made += [case for case in shared if case.sweep == "window" and not case.ideal]
    return made


def sweep(*, workers: int = 2, progress: bool = True) -> pd.DataFrame:
    """Run every case; the table of sweeps.csv, one row a case.

    Columns: sweep, setting, network, machine, scheme, real_trace, images, multipliers, weight_bits
    (weight port, bit a cycle), area_mm2 (logic assumed), cycles, energy_pj, edp_js of one image,
    and a column PHASE_CAUSE for each entry of `TAXONOMY`, which sum to cycles.
    """
    found = run_all(_row, sweep_cases(), workers=workers, progress=progress, label="sweeps")
    return pd.DataFrame(found).sort_values(
        "sweep", key=lambda names: names.map(list(_TITLES).index), kind="stable", ignore_index=True
    )


def comparison(*, workers: int = 2, progress: bool = True) -> pd.DataFrame:
    """EDP of structured noise over unstructured at the same ratio, beside the wait for weights.

    One row a network and scheme on the structured machine: network, scheme, real_trace,
    edp_over_unstructured, edp_over_ideal, latency_over_unstructured, energy_over_unstructured,
    interpolated (the unstructured ratio was not simulated), edp_norm (over dense on the
    unstructured machine), shallow_share (of the cycles), idle_share_unstructured (idle slots of the
    unstructured machine at the nearest ratio).
    """
    planned = [job for network in _NETWORKS for job in _jobs(network)]
    found = run_all(points, planned, workers=workers, progress=progress, label="comparison")
    full = normalise(pd.DataFrame([record for each in found for record in each]))
    rows = []
    for network in _NETWORKS:
        mine = full[full["network"] == network]
        structured = mine[mine["machine"] == "structured"].set_index("scheme")
        others = select(mine, SERIES[0])
        for ratio in same_ratio(mine):
            if ratio["machine"] != "structured":
                continue
            point = structured.loc[ratio["scheme"]]
            nearest = others.loc[(others["noise"] - ratio["noise"]).abs().idxmin()]
            slots = nearest["slots"]
            rows.append(
                {
                    "network": network,
                    "scheme": ratio["scheme"],
                    "real_trace": bool(point["real_trace"]),
                    **{
                        key: ratio[key]
                        for key in (
                            "edp_over_unstructured",
                            "edp_over_ideal",
                            "latency_over_unstructured",
                            "energy_over_unstructured",
                            "interpolated",
                        )
                    },
                    "edp_norm": point["edp_norm"],
                    "shallow_share": point["stalls"]["shallow"] / point["cycles"],
                    "idle_share_unstructured": 1 - slots["useful"] / sum(slots.values()),
                }
            )
    return pd.DataFrame(rows)


def write_sweeps(
    directory: Path, *, workers: int = 2, progress: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write sweeps.csv, comparison.csv, sweeps.md and sweeps.png into an existing directory; return
    the tables of the first two."""
    from .cycles_plot import save

    rows = sweep(workers=workers, progress=progress)
    compared = comparison(workers=workers, progress=progress)
    rows.to_csv(directory / "sweeps.csv", index=False, lineterminator="\n")
    compared.to_csv(directory / "comparison.csv", index=False, lineterminator="\n")
    (directory / "sweeps.md").write_text(markdown(rows, compared), encoding="utf-8")
    save(draw(rows), directory / "sweeps.png")
    return rows, compared


def draw(rows: pd.DataFrame) -> Any:
    """Draw sweeps.png from the rows of sweeps.csv."""
    from .cycles_plot import draw_sweeps

    panels = {}
    for name, mine in rows.groupby("sweep", sort=False):
        values = mine[[f"{phase}_{cause}" for phase, cause in TAXONOMY]]
        values = values.set_axis(pd.MultiIndex.from_tuples(TAXONOMY), axis=1)
        panels[_TITLES[name]] = values.set_axis(mine["setting"], axis=0)
    return draw_sweeps(panels)


def markdown(rows: pd.DataFrame, compared: pd.DataFrame) -> str:
    """The tables for a reader."""
    lines = ["# Sweeps", ""]
    heads = ("setting", "port [bit]", "area [mm2]", "cycles", "EXACT useful", "EXACT idle")
    heads += ("APPROXIMATE", "rpu", "xbank", "shallow", "energy [uJ]", "EDP [nJs]")
    for name, mine in rows.groupby("sweep", sort=False):
        lines += [f"## {_TITLES[name]}", "", *_head(heads)]
        for row in mine.to_dict("records"):
            shallow = row["approximate_shallow"] + row["exact_shallow"]
            values = (
                f"{row['weight_bits']:,}",
                f"{row['area_mm2']:.2f}",
                f"{row['cycles']:,.0f}",
                f"{row['exact_useful']:,.0f}",
                f"{row['exact_idle']:,.0f}",
                f"{row['approximate_useful'] + row['approximate_idle']:,.0f}",
                f"{row['approximate_rpu']:,.0f}",
                f"{row['exact_xbank']:,.0f}",
                f"{shallow:,.0f}",
                f"{row['energy_pj'] * 1e-6:.1f}",
                f"{row['edp_js'] * 1e9:.1f}",
            )
            lines.append(f"| {row['setting']} | {' | '.join(values)} |")
        lines.append("")
    lines += [
        "## structured over unstructured at the same ratio",
        "",
        *_head(
            (
                "network",
                "scheme",
                "EDP over U",
                "EDP over ideal U",
                "latency over U",
                "energy over U",
                "U interpolated",
                "EDP over dense",
                "shallow on S",
                "idle slots on U",
            ),
            2,
        ),
    ]
    for row in compared.to_dict("records"):
        masks = "real" if row["real_trace"] else "synthetic"
        lines.append(
            f"| {row['network']} ({masks}) | {row['scheme']} |"
            f" {row['edp_over_unstructured']:.3f} | {row['edp_over_ideal']:.3f} |"
            f" {row['latency_over_unstructured']:.3f} | {row['energy_over_unstructured']:.3f} |"
            f" {'yes' if row['interpolated'] else 'no'} | {row['edp_norm']:.4f} |"
            f" {row['shallow_share']:.1%} | {row['idle_share_unstructured']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def _row(case: Case) -> dict[str, Any]:
    trace = open_trace(NETWORK, case.scheme, case.path)
    machine = override(PRESETS[case.machine], list(case.overrides))
    result = replay(trace, machine, FEW_IMAGES, placement=case.placement)
    made, found = summary(result), causes(result)
    return {
        "sweep": case.sweep,
        "setting": _setting(case),
        "network": made["network"],
        "machine": made["machine"],
        "scheme": made["scheme"],
        "real_trace": made["real_trace"],
        "images": made["images"],
        "multipliers": machine.multipliers,
        "weight_bits": machine.lanes * machine.weight_words * machine.word_bits("weights"),
        "area_mm2": area_mm2(machine),
        "cycles": made["cycles"],
        "energy_pj": made["energy_pj"],
        "edp_js": made["edp_js"],
        **{
            f"{phase}_{cause}": float(values.sum()) / made["images"]
            for (phase, cause), values in found.items()
        },
    }


def _setting(case: Case) -> str:
    """A bar's name, in the letters of the machine's description."""
    letters = {"columns": "T", "lanes": "V", "weight_words": "beta", "window": "W"}
    changes = (text.partition("=") for text in case.overrides)
    words = [f"{letters[key]}={value}" for key, _, value in changes]
    words += [] if case.placement else ["unplaced"]
    return " ".join(words) or case.scheme


def _jobs(network: str) -> list[Job]:
    """The schemes of the comparison: from bundled traces, or synthetic."""
    planned = [job for job in jobs(None, [network]) if job.scheme in _COMPARED]
    known = {job.scheme for job in planned}
    ratios = {float(Scheme.parse(s).ratio) for s in known if s.startswith("structured")}
    if all(job.path for job in planned):
        return planned
    # Synthetic masks exist at every ratio, so none is interpolated.
    return [
        job
        for job in planned
        if not job.scheme.startswith("unstructured") or float(job.scheme.split(":")[1]) in ratios
    ]


def _head(names: Iterable[str], words: int = 1) -> list[str]:
    """Head of a Markdown table whose first `words` columns are text."""
    names = list(names)
    rule = "---|" * words + "--:|" * (len(names) - words)
    return [f"| {' | '.join(names)} |", f"|{rule}"]
