"""Both engines on every image of every bundled trace: equal step by step, and how fast each is.

Run with `make engines`, or `python benchmarks/bench_engines.py [-o FILE]`; takes half an hour of
CPU time. Every trace runs on the machines of its scheme twice: all images one by one with resident
weights, and the first two as a batch, streamed through a small store, on an unstructured machine
with half the window. Compared are first and last issue of every step, and every number of every
layer. Where the program alone decides the work, all images of a trace are one simulation and count
once. A file keeps what is done, so that it goes on where it was, unless simulator or traces have
changed. Prints a table in Markdown; exit status 1 if anything differs, or the stepped engine misses
its target.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from sinai.common.machine import PRESETS, override
from sinai.report.run import trace_digest
from sinai.report.sources import REPLAY, sources
from sinai.sim import Result, simulate
from sinai.traces.schema import bundled, load

TARGET = 1e5  # cycles a CPU second, stepped engine

#: Accounting, to its changes of the machine, and images of a batch.
SETTINGS = {
    "resident": ([], 1),
    "1 MiB, 16 B/cycle, batch of 2": (["dma.capacity_kib=1024", "dma.bytes_per_cycle=16"], 2),
}


def main(results: Path) -> int:
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = _known(results)
    wanted = [
        (name, machine, setting)
        for name in bundled()
        for machine in ("unstructured", "structured", "structured-expanded")
        for setting in SETTINGS
        if machine != "unstructured" or "unstructured" in name
    ]
    done = {}
    for name, machine, setting in wanted:
        trace = load(bundled()[name])
        identity = {
            "trace": name,
            "machine": machine,
            "setting": setting,
            "digest": trace_digest(trace),
            "sources": sources(*REPLAY),
        }
        key = json.dumps(identity)
        if key not in rows:
            rows[key] = identity | compared(trace, machine, setting)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[key]) + "\n")
            print(f"{name:28} {machine:20} {setting}: {_said(rows[key])}", file=sys.stderr)
        done[key] = rows[key]
    print(table(pd.DataFrame(done.values())))
    slow = any(row["cycles"] < TARGET * row["stepped"] for row in done.values())
    return int(slow or any(row["differences"] for row in done.values()))


def compared(trace, machine: str, setting: str) -> dict:
    """Layers, steps, cycles, layers that differ, and CPU seconds of each engine."""
    changes, batch = SETTINGS[setting]
    described = PRESETS[machine]
    if changes and described.unstructured:
        changes = [*changes, f"window={described.window // 2}"]
    images = None if batch == 1 else range(batch)
    if trace.scheme.structured:
        images = range(batch)
    made, seconds = [], []
    for engine in ("fast", "stepped"):
        began = time.process_time()
        made.append(
            simulate(trace, override(described, changes), images=images, batch=batch, engine=engine)
        )
        seconds.append(time.process_time() - began)
    fast, stepped = made
    return {
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
    return f"{row['cycles']:,} cycles, {row['steps']:,} steps, {row['differences']} layers differ"


def _known(results: Path) -> dict[str, dict]:
    found = {}
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut short in mid-line
        names = ("trace", "machine", "setting", "digest", "sources")
        found[json.dumps({name: row[name] for name in names})] = row
    return found


def table(rows: pd.DataFrame) -> str:
    """The results in Markdown, by machine and setting."""
    lines = [
        "| machine | setting | traces | layers | steps | cycles | layers that differ"
        " | fast, cycles a CPU-s | stepped, cycles a CPU-s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (machine, setting), some in rows.groupby(["machine", "setting"], sort=False):
        total = some[["layers", "steps", "cycles", "differences"]].sum()
        rates = [some["cycles"] / some[engine] for engine in ("fast", "stepped")]
        cells = [f"{total[name]:,}" for name in ("layers", "steps", "cycles")]
        cells += [f"**{total['differences']}**"]
        cells += [f"{rate.min():.2g} to {rate.max():.2g}" for rate in rates]
        lines.append(f"| {' | '.join([machine, setting, str(len(some)), *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/engines.jsonl"))
    sys.exit(main(parser.parse_args().output))
