"""Sweeps beside the published machines, on ResNet-18 at about 7/8 noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.machine import PRESETS, override
from ..traces import networks
from ..traces.synth import synthesise
from .area import area_mm2
from .points import FEW_IMAGES, Job, open_trace, replay, run_all
from .run import summary

__all__ = ["STORE_KIB", "cases", "sweeps"]

#: On-chip store of the table of bandwidths, in KiB.
STORE_KIB = 1024

_NETWORK = "resnet18"
_U, _S = "unstructured:0.875", "structured:7:8"

#: Batches of the sweep.
_BATCHES = (1, 4, 16)


@dataclass(frozen=True)
class Case:
    """One simulation of a sweep: a preset with overrides, a scheme and where its masks come from.

    `projection` asks for synthetic masks over the geometry with that form of P; sweep "batch" has
    synthetic ones too, for real traces may have fewer images than its largest batch.
    """

    sweep: str
    machine: str
    scheme: str
    overrides: tuple[str, ...] = ()
    placement: bool = True
    dense: bool = False
    ideal: bool = False
    projection: str = ""
    path: Path | None = None
    batch: int = 1
    shown: dict[str, Any] = field(default_factory=dict)


def sweeps(jobs: Sequence[Job], *, workers: int = 2, progress: bool = True) -> dict[str, Any]:
    """Return every sweep as a list of rows; `best_edp` names each machine's setting of least EDP,
    the ideal bound apart.

    Parameters
    ----------
    jobs : sequence of Job
        Of figure 5; those of ResNet-18 say where its masks come from.
    """
    rows = run_all(_row, cases(jobs), workers=workers, progress=progress, label="sweeps")
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(row.pop("sweep"), []).append(row)
    return {
        "network": _NETWORK,
        "bandwidth": _bandwidth(tables.pop("bandwidth")),
        "batch": _batches(tables.pop("batch", [])),
        **{
            name: {
                "rows": table,
                "best_edp": _best(table),
            }
            for name, table in tables.items()
        },
    }


def cases(jobs: Sequence[Job]) -> list[Case]:
    """Every simulation of every sweep."""
    paths = {job.scheme: job.path for job in jobs if job.network == _NETWORK}
    unstructured = _nearest(paths)
    u = {"machine": "unstructured", "scheme": unstructured, "path": paths.get(unstructured)}
    s = {"machine": "structured", "scheme": _S, "path": paths.get(_S)}
    made = []
    for bytes_per_cycle in (None, 64, 16):
        limit = ()
        if bytes_per_cycle:
            limit = (f"dma.capacity_kib={STORE_KIB}", f"dma.bytes_per_cycle={bytes_per_cycle}")
        shown = {"bytes_per_cycle": bytes_per_cycle}
        made += [
            Case("bandwidth", overrides=limit, dense=dense, shown=shown, **machine)
            for machine in (u, s)
            for dense in (True, False)
        ]
        if bytes_per_cycle != 64:
            made += [
                Case("batch", machine, scheme, limit, dense=dense, batch=batch, shown=shown)
                for machine, scheme in (("unstructured", _U), ("structured", _S))
                for dense in (True, False)
                for batch in _BATCHES
            ]
    for placement in (True, False):
        made += [
            Case("window", overrides=(f"window={w}",), placement=placement, **u)
            for w in (1, 2, 4, 8, 16, 32)
        ]
    made += [Case("window", ideal=True, **u)]
    made += [
        Case("unstructured_shape", overrides=(f"lanes={v}", f"pses={512 // v}"), **u)
        for v in (8, 16, 32)
    ]
    made += [
        Case(
            "structured_shape",
            overrides=(f"columns={t}", f"lanes={32 // t}", f"weight_words={beta}"),
            **s,
        )
        for t in (2, 4, 8, 16)
        for beta in (1, 2)
    ]
    made += [
        Case("projection", projection=form, machine=machine, scheme=scheme)
        for machine, scheme in (("unstructured", _U), ("structured", _S))
        for form in ("patch", "tap")
    ]
    return made


def _nearest(paths: dict[str, Path | None]) -> str:
    """The unstructured scheme nearest to 7/8 noise."""
    ratios = [name for name in paths if name.startswith("unstructured:")] or [_U]
    return min(ratios, key=lambda name: abs(float(name.split(":")[1]) - 7 / 8))


def _row(case: Case) -> dict[str, Any]:
    if case.projection:
        layers = networks.layers(_NETWORK, case.projection)
        trace = synthesise(_NETWORK, case.scheme, layers=layers)
    elif case.sweep == "batch":
        trace = open_trace(_NETWORK, case.scheme, None, images=max(_BATCHES))
    else:
        trace = open_trace(_NETWORK, case.scheme, case.path)
    machine = override(PRESETS[case.machine], list(case.overrides))
    options = {"placement": case.placement, "dense": case.dense, "ideal": case.ideal}
    result = replay(trace, machine, FEW_IMAGES, case.batch, **options)
    made = summary(result)
    text = [*case.overrides, *([] if case.placement else ["placement off"])]
    text += [f"P {case.projection}"] if case.projection else []
    text += ["ideal bound"] if case.ideal else []
    return {
        "sweep": case.sweep,
        "setting": ", ".join(text) or "as published",
        "machine": case.machine,
        "scheme": made["scheme"],
        "real_trace": made["real_trace"],
        "images": made["images"],
        "batch": made["batch"],
        "ideal": case.ideal,
        **case.shown,
        "multipliers": machine.multipliers,
        "area_mm2": area_mm2(machine),
        "cycles": made["cycles"],
        "busy_share": made["busy_cycles"] / made["cycles"],
        "energy_pj": made["energy_pj"],
        "edp_js": made["edp_js"],
    }


def _best(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Setting of least EDP by machine."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        machine = row["machine"]
        if not row["ideal"] and row["edp_js"] < best.get(machine, {}).get("edp_js", float("inf")):
            best[machine] = row
    return {machine: row["setting"] for machine, row in best.items()}


def _bandwidth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Latency relative to dense at the same bandwidth and, for scale, to resident dense."""
    dense = {
        (row["machine"], row["bytes_per_cycle"]): row["cycles"]
        for row in rows
        if row["scheme"] == "dense"
    }
    return [
        {
            "machine": row["machine"],
            "scheme": row["scheme"],
            "accounting": "resident" if limit is None else f"store of {STORE_KIB} KiB",
            "bytes_per_cycle": limit,
            "latency_over_dense": row["cycles"] / dense[row["machine"], limit],
            "latency_over_resident_dense": row["cycles"] / dense[row["machine"], None],
        }
        for row in rows
        if row["scheme"] != "dense"
        for limit in (row["bytes_per_cycle"],)
    ]


def _batches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cycles and energy of an image in a batch, and relative to dense in the same batch."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["machine"], row["bytes_per_cycle"], row["batch"]

    dense = {key(row): row for row in rows if row["scheme"] == "dense"}
    return [
        {
            "machine": row["machine"],
            "scheme": row["scheme"],
            "accounting": "resident" if limit is None else f"store of {STORE_KIB} KiB",
            "bytes_per_cycle": limit,
            "batch": row["batch"],
            "real_trace": row["real_trace"],
            "cycles_per_image": row["cycles"] / row["batch"],
            "energy_pj_per_image": row["energy_pj"] / row["batch"],
            "latency_over_dense": row["cycles"] / dense[key(row)]["cycles"],
            "energy_over_dense": row["energy_pj"] / dense[key(row)]["energy_pj"],
        }
        for row in rows
        if row["scheme"] != "dense"
        for limit in (row["bytes_per_cycle"],)
    ]
