"""Both engines on every image of every bundled trace: equal step by step, and how fast each is.

Run with `make engines`, or `python benchmarks/bench_engines.py [--trace NAME ...] [-o FILE]`; all
traces take an hour of CPU time, those of ResNet-18 a quarter of it. Every trace runs on
the machines of its scheme twice: all images one by one with resident weights, and the first two as
a batch, streamed through a small store, on an unstructured machine with half the window. Compared
are first and last issue of every step, and every number of every layer. Where the program alone
decides the work, all images of a trace are one simulation and count once. A file keeps what is
done, so that it goes on where it was, unless simulator or traces have changed. Prints a table in
Markdown; exit status 1 if anything differs, or the stepped engine misses its target.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from sinai.common.machine import PRESETS, override
from sinai.common.sources import REPLAY, sources
from sinai.report.run import trace_digest
from sinai.sim import Result, simulate
from sinai.traces.schema import Trace, bundled, load

TARGET = 1e5  # cycles a CPU second, stepped engine

#: Capacity in KiB of the streamed runs: a power of two that holds a part of every layer.
CAPACITY = {"resnet18": 1024, "wrn34_10": 2048}


def main(results: Path, names: list[str]) -> int:
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = _known(results)
    wanted = [
        (name, machine, streamed)
        for name in names
        for machine in ("unstructured", "structured", "structured-expanded")
        for streamed in (False, True)
        if machine != "unstructured" or "unstructured" in name
    ]
    done = {}
    for name, machine, streamed in wanted:
        trace = load(bundled()[name])
        identity = {
            "trace": name,
            "machine": machine,
            "streamed": streamed,
            "digest": trace_digest(trace),
            "sources": sources(*REPLAY),
        }
        key = json.dumps(identity)
        if key not in rows:
            rows[key] = identity | compared(trace, machine, streamed)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[key]) + "\n")
            print(f"{name:28} {machine:20} {_said(rows[key])}", file=sys.stderr)
        done[key] = rows[key]
    print(table(pd.DataFrame(done.values())))
    slow = any(row["cycles"] < TARGET * row["stepped"] for row in done.values())
    return int(slow or any(row["differences"] for row in done.values()))


def compared(trace: Trace, machine: str, streamed: bool) -> dict:
    """Layers, steps, cycles, layers that differ, and CPU seconds of each engine."""
    network, described, batch = trace.manifest.network, PRESETS[machine], 1 + streamed
    if streamed:
        changes = [f"dma.capacity_kib={CAPACITY[network]}", "dma.bytes_per_cycle=16"]
        if described.unstructured:
            changes.append(f"window={described.window // 2}")
        described = override(described, changes)
    images = range(batch) if streamed or trace.scheme.structured else None
    made, seconds = [], []
    for engine in ("fast", "stepped"):
        began = time.process_time()
        made.append(simulate(trace, described, images=images, batch=batch, engine=engine))
        seconds.append(time.process_time() - began)
    fast, stepped = made
    return {
        "network": network,
        "layers": len(fast.layers),
        "steps": sum(map(len, fast.steps)),
        "cycles": int(fast.layers["cycles"].sum()),
        "differences": _differences(fast, stepped),
        "fast": seconds[0],
        "stepped": seconds[1],
    }


def _differences(one: Result, other: Result) -> int:
    """Rows, an image and layer each, of which anything differs."""
    pairs = (one.layers, other.layers), (one.counts, other.counts)
    numbers = [(a != b).to_numpy().any(axis=1) for a, b in pairs]
    steps = np.array([a != b for a, b in zip(one.steps, other.steps, strict=True)])
    return int((numbers[0] | numbers[1] | steps).sum())


def _said(row: dict) -> str:
    how = "streamed" if row["streamed"] else "resident"
    differ = f"{row['differences']} layers differ"
    return f"{how:9} {row['cycles']:,} cycles, {row['steps']:,} steps, {differ}"


def _known(results: Path) -> dict[str, dict]:
    found = {}
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut short in mid-line
        names = ("trace", "machine", "streamed", "digest", "sources")
        found[json.dumps({name: row[name] for name in names})] = row
    return found


def table(rows: pd.DataFrame) -> str:
    """The results in Markdown, by network, machine and accounting."""
    lines = [
        "| network | machine | accounting | traces | layers | steps | cycles | layers that differ"
        " | fast, cycles a CPU-s | stepped, cycles a CPU-s |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    kinds = rows.groupby(["network", "machine", "streamed"], sort=False)
    for (network, machine, streamed), some in kinds:
        total = some[["layers", "steps", "cycles", "differences"]].sum()
        rates = [some["cycles"] / some[engine] for engine in ("fast", "stepped")]
        accounting = f"{CAPACITY[network]} KiB, batch of 2" if streamed else "resident"
        cells = [network, machine, accounting, str(len(some))]
        cells += [f"{total[name]:,}" for name in ("layers", "steps", "cycles")]
        cells += [f"**{total['differences']}**"]
        cells += [f"{rate.min():.2g} to {rate.max():.2g}" for rate in rates]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/engines.jsonl"))
    parser.add_argument("--trace", action="append", choices=bundled(), metavar="NAME")
    given = parser.parse_args()
    sys.exit(main(given.output, given.trace or list(bundled())))
