"""Points of figure 5: one network, one scheme, one machine each, simulated in parallel."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..common.errors import InputError
from ..common.machine import PRESETS, Machine, override
from ..sim import Result, bound, simulate
from ..traces import schema
from ..traces.schema import Trace
from ..traces.synth import synthesise
from .bitops import bitops, paper_ratio
from .run import summary, trace_digest
from .sram import check_clock

__all__ = [
    "BY_DEVICE",
    "COLUMNS",
    "DEVICES",
    "FEW_IMAGES",
    "IMAGES",
    "MACHINES",
    "NETWORKS",
    "SCHEMES",
    "Job",
    "jobs",
    "open_trace",
    "point",
    "points",
    "replay",
    "run_all",
]

#: Columns of figure5.csv, in order.
COLUMNS = (
    "schema",
    "network",
    "machine",
    "scheme",
    "noise",
    "noise_target",
    "real_trace",
    "images",
    "engine",
    "projection",
    "clock_hz",
    "area_mm2",
    "cycles",
    "busy_cycles",
    "stall_cycles",
    "latency_s",
    "energy_pj",
    "edp_js",
    "bitops",
    "latency_norm",
    "energy_norm",
    "edp_norm",
    "bitops_norm",
)

#: Networks of figure 5, in the order of its rows.
NETWORKS = ("resnet18", "wrn34_10", "resnet50")

#: Schemes of a network without real traces: every q/8 in both granularities, so that they meet at
#: equal ratio, and the ends of the range.
SCHEMES = (
    "dense",
    *(f"structured:{q}:8" for q in range(1, 8)),
    *(f"unstructured:{ratio}" for ratio in (0.1, 0.3, 0.8, 0.9, 0.99)),
    *(f"unstructured:{q / 8:g}" for q in range(1, 8)),
)

#: Machine by its name in figure5.csv: preset, whether it is the simulator-only bound, and the kinds
#: of scheme that run on it.
MACHINES = {
    "unstructured": ("unstructured", False, ("dense", "unstructured")),
    "unstructured-ideal": ("unstructured", True, ("dense", "unstructured")),
    "structured": ("structured", False, ("dense", "structured", "unstructured")),
    "structured-expanded": ("structured-expanded", False, ("dense", "structured")),
}

#: SRAM device types whose energy is shown beside the default's.
DEVICES = ("itrs-hp", "itrs-lop", "itrs-lop-hp", "itrs-lstp", "itrs-lstp-hp")

#: Schemes at which it is shown: the published sparse end, and what it is relative to.
BY_DEVICE = ("dense", "structured:7:8", "unstructured:0.875")

#: Largest number of images of a trace that a point is the mean of.
IMAGES = 8

#: The same for sweeps and for synthetic masks in comparison; keeps figure 5 within a minute.
FEW_IMAGES = 2


@dataclass(frozen=True)
class Job:
    """One network and scheme. `path` is a trace; without one the masks are synthetic. `batch`
    images pass each layer together."""

    network: str
    scheme: str
    path: Path | None = None
    seed: int = 0
    batch: int = 1


def jobs(
    traces: Sequence[Path] | None, networks: Sequence[str] | None = None, batch: int = 1
) -> list[Job]:
    """What figure 5 simulates, the longest first.

    Parameters
    ----------
    traces : sequence of path, optional
        Traces in place of the bundled ones of the same network, or of further networks.
    networks : sequence of str, optional
        Leave out all others.
    batch : int
        Images that pass each layer together.

    Raises
    ------
    InputError
        If two traces of one network have the same scheme, or differ in their geometry.
    """
    real: dict[str, dict[str, Path]] = {}
    bundled = _by_network(schema.bundled().values())
    given = _by_network(traces or ())
    for network in (*NETWORKS, *sorted(given)):
        real[network] = given.get(network) or bundled.get(network, {})
    if networks is not None:
        real = {network: real.get(network, {}) for network in networks}
    made = []
    for network, paths in real.items():
        if paths:
            first = next(iter(paths.values()))
            paths = {"dense": paths.get("dense", first)} | paths
            made += [Job(network, scheme, path, batch=batch) for scheme, path in paths.items()]
        else:
            made += [Job(network, scheme, batch=batch) for scheme in SCHEMES]
    heavy = {"resnet50": 2, "wrn34_10": 1}
    return sorted(made, key=lambda job: -heavy.get(job.network, 0))


def run_all(
    work: Callable[[Any], Any], items: Iterable[Any], *, workers: int, progress: bool, label: str
) -> list[Any]:
    """Return ``[work(item) for item in items]``, in order, by `workers` processes."""
    from tqdm import tqdm

    items = list(items)
    bar = tqdm(total=len(items), desc=label, disable=not progress, unit="run")
    with bar:
        if workers == 1:
            return [_advance(bar, work(item)) for item in items]
        # Not fork: the progress bar has a thread.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = [pool.submit(work, item) for item in items]
            for _ in as_completed(futures):
                bar.update()
            return [future.result() for future in futures]


def points(job: Job) -> list[dict[str, Any]]:
    """Simulate a job on every machine that its scheme runs on; one record a machine."""
    trace = open_trace(job.network, job.scheme, job.path, job.seed, job.batch)
    kind = job.scheme.split(":")[0]
    records = []
    replayed: dict[str, Result] = {}
    for name, (preset, ideal, kinds) in MACHINES.items():
        if kind not in kinds:
            continue
        if preset not in replayed:
            replayed[preset] = replay(
                trace, PRESETS[preset], batch=job.batch, dense=kind == "dense"
            )
        result = bound(replayed[preset]) if ideal else replayed[preset]
        records.append(point(name, result))
        if name == "unstructured" and kind != "dense" and not trace.synthetic:
            records[-1]["synthetic_cycles"] = _synthetic_cycles(trace, job)
    return records


def replay(
    trace: Trace, machine: Machine, at_most: int | None = None, batch: int = 1, **options: Any
) -> Result:
    """Simulate the first `at_most` images of `trace` (`IMAGES` if None), or the first `batch` if
    those are more, if the clock allows."""
    check_clock(machine)
    most = max(batch, IMAGES if at_most is None else at_most)
    images = range(min(most, trace.images))
    return simulate(trace, machine, images=images, batch=batch, **options)


@cache
def open_trace(
    network: str, scheme: str, path: Path | None, seed: int = 0, images: int = 1
) -> Trace:
    """Load the trace at `path`, or make a synthetic one of so many images."""
    return schema.load(path) if path else synthesise(network, scheme, images, seed)


def point(name: str, result: Result) -> dict[str, Any]:
    """Columns of figure5.csv except the last four, and what the summary tells besides."""
    made = summary(result)
    layers, trace = result.layers, result.trace
    if result.scheme.dense:
        share = None
    else:
        by_batch = layers["essential"].to_numpy().reshape(-1, len(trace.layers))
        share = (by_batch.mean(0) / result.batch).tolist()
    ratio = float(result.scheme.ratio)
    return {
        "schema": 1,
        "network": made["network"],
        "machine": name,
        "scheme": made["scheme"],
        "noise": made["noise"],
        "noise_target": ratio,
        "real_trace": made["real_trace"],
        "images": made["images"],
        "engine": result.engine,
        "projection": trace.layers[0].projection,
        "clock_hz": made["clock_hz"],
        "area_mm2": made["area_mm2"],
        "cycles": made["cycles"],
        "busy_cycles": made["busy_cycles"],
        "stall_cycles": made["cycles"] - made["busy_cycles"],
        "latency_s": made["latency_s"],
        "energy_pj": made["energy_pj"],
        "edp_js": made["edp_js"],
        "bitops": result.batch * float(bitops(trace.layers, share)),
        "digest": trace_digest(trace),
        "stalls": made["stall_cycles"],
        "slots": made["slots"],
        "energy_by_component_pj": made["energy_by_component_pj"],
        "bitops_paper_norm": 1.0 if share is None else paper_ratio(made["noise"]),
        "energy_by_device_pj": _by_device(result) if made["scheme"] in BY_DEVICE else {},
        "assumed": made["assumed"],
    }


def _by_device(result: Result) -> dict[str, float]:
    """Energy with each type of SRAM that keeps up with the clock; the cycles are the same."""
    energies = {}
    for device in DEVICES:
        machine = override(
            result.machine, [f"memories.device={device}", "memories.temperature_k=300"]
        )
        try:
            check_clock(machine)
        except InputError:
            continue
        energies[device] = summary(replace(result, machine=machine))["energy_pj"]
    return energies


def _synthetic_cycles(trace: Trace, job: Job) -> float:
    """Cycles on the unstructured machine with synthetic masks of equal density and geometry."""
    images = max(job.batch, min(FEW_IMAGES, trace.images))
    made = synthesise(job.network, job.scheme, images, job.seed, layers=trace.layers)
    return replay(made, PRESETS["unstructured"], batch=job.batch).cycles


def _by_network(paths: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Traces by network and scheme; the schemes of a network share one geometry."""
    found: dict[str, dict[str, Path]] = {}
    geometry: dict[str, tuple[Path, Trace]] = {}
    for path in paths:
        trace = schema.load(path)
        network, scheme = trace.manifest.network, str(trace.scheme)
        first, other = geometry.setdefault(network, (path, trace))
        if trace.layers != other.layers:
            raise InputError(
                f"{path}: layers of {network} differ from those of {first}; the traces of one"
                " network must have one geometry"
            )
        if scheme in found.setdefault(network, {}):
            raise InputError(
                f"{path}: scheme {scheme} of {network} is already given by"
                f" {found[network][scheme]}; give one trace a scheme"
            )
        found[network][scheme] = path
    return found


def _advance(bar: Any, value: Any) -> Any:
    bar.update()
    return value
