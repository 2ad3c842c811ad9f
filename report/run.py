"""The run directory: what one simulated trace gives, with everything needed to repeat it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from ..sim.counts import MEMORIES
from ..traces.schema import Trace
from .area import area_mm2, art
from .energy import COMPONENTS, energy, ert
from .sram import check_clock
from .timeline import write_timeline

if TYPE_CHECKING:
    from ..sim import Result

__all__ = ["layer_table", "summary", "trace_digest", "versions", "write_run"]


def write_run(result: Result, directory: Path, *, command: str = "") -> dict[str, Any]:
    """Write config.yaml, summary.json, layers.csv, ert.yaml and art.yaml, and return the summary;
    timeline.json too where the result has one.

    Parameters
    ----------
    result : Result
        What the simulator counted.
    directory : Path
        Existing directory; files of these names are replaced.
    command : str
        Command that asked for the run, kept in config.yaml.

    Raises
    ------
    InputError
        If the clock is faster than a memory of the machine.
    """
    check_clock(result.machine)
    machine, manifest = result.machine, result.trace.manifest
    config = {
        "command": command or " ".join(sys.argv),
        "machine": machine.model_dump(),
        "engine": result.engine,
        "ideal": result.ideal,
        "batch": result.batch,
        "clock_hz": machine.clock_hz,
        "scheme": str(result.scheme),
        "trace": {
            "name": result.trace.name,
            "network": manifest.network,
            "synthetic": manifest.synthetic,
            "seed": manifest.seed,
            "data": manifest.data,
            "image_indices": list(manifest.image_indices),
            "digest": trace_digest(result.trace),
        },
        "versions": versions(),
    }
    made = summary(result)
    _write_yaml(directory / "config.yaml", config)
    text = json.dumps(made, indent=2, allow_nan=False)
    (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
    layer_table(result).to_csv(directory / "layers.csv", index=False, lineterminator="\n")
    for name, table in (("ert", ert(machine)), ("art", art(machine))):
        entries = {key: dataclasses.asdict(entry) for key, entry in table.items()}
        _write_yaml(directory / f"{name}.yaml", {"technology": "45 nm", name: entries})
    if result.spans:
        write_timeline(result, directory / "timeline.json")
    return made


def summary(result: Result) -> dict[str, Any]:
    """Latency, energy and EDP of a batch, by default of one image, and what they are made of.

    Means over the batches; `noise` and `area_mm2` apart, every figure is of all images of a batch.
    """
    layers, spent = result.layers, energy(result)
    batches = layers["image"].nunique()
    per_batch = pd.DataFrame(
        {
            "image": layers["image"].to_numpy(),
            "cycles": layers["cycles"].to_numpy(),
            "energy_pj": spent["energy_pj"].to_numpy(),
        }
    )
    per_batch = per_batch.groupby("image", sort=False).sum()
    latency_s = per_batch["cycles"] * result.machine.clock_ns * 1e-9
    stalls = [name for name in layers.columns if name.startswith("stall_")]
    slots = [name for name in layers.columns if name.startswith("slots_")]

    def mean(name: str) -> float:
        return float(layers[name].sum()) / batches

    return {
        "schema": 1,
        "network": result.trace.manifest.network,
        "machine": result.machine.name,
        "scheme": str(result.scheme),
        "noise": 1 - float(layers["essential"].sum()) / float(layers["neurons"].sum()),
        "real_trace": not result.trace.synthetic,
        "images": batches * result.batch,
        "batch": result.batch,
        "clock_hz": result.machine.clock_hz,
        "area_mm2": area_mm2(result.machine),
        "cycles": mean("cycles"),
        "busy_cycles": mean("busy_cycles"),
        "stall_cycles": {name.removeprefix("stall_"): mean(name) for name in stalls},
        "slots": {name.removeprefix("slots_"): mean(name) for name in slots},
        "cycles_load": mean("cycles_load"),
        "cycles_store": mean("cycles_store"),
        "macs16": mean("macs16"),
        "macs4": mean("macs4"),
        "latency_s": float(latency_s.mean()),
        "energy_pj": float(per_batch["energy_pj"].mean()),
        "edp_js": float((per_batch["energy_pj"] * 1e-12 * latency_s).mean()),
        "energy_by_component_pj": {
            name: float(spent[f"energy_{name}_pj"].sum()) / batches for name in COMPONENTS
        },
        "assumed": sorted(name for name, entry in ert(result.machine).items() if entry.assumed),
    }


def layer_table(result: Result) -> pd.DataFrame:
    """One row for each batch (by default an image) and layer: cycles and their causes, work, SRAM
    accesses, energy."""
    accesses = result.counts[[f"{name}.{way}" for name in MEMORIES for way in ("read", "write")]]
    accesses = accesses.rename(columns=lambda name: "sram_" + name.replace(".", "_"))
    parts = (result.layers, accesses, energy(result))
    return pd.concat([part.reset_index(drop=True) for part in parts], axis=1)


def trace_digest(trace: Trace) -> str:
    """SHA-256 of the manifest, which holds the digest of every array."""
    return hashlib.sha256(trace.manifest.model_dump_json(by_alias=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what computes its numbers."""
    names = ("sinai", "numpy", "pandas", "simpy", "matplotlib")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
