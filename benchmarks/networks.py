"""Whole networks through the hardware: every convolution of ResNet-18 on the published machines.

Run with `make networks`, or `python benchmarks/networks.py [-o DIR]`. Exports the operands of one
real image under each scheme, runs every layer on the machine's own Verilog and compares every
counter, block time and byte with the simulator and the integer model (`sinai validate`). Compiling
the two machines takes some minutes of CPU time, once; each run some more. Interrupted, it goes on
where it was: layer by layer, and what is in DIR already is not made again, unless checkpoint,
hardware, simulator or integer model have changed since. Prints a table in Markdown; exit status 1
if anything differs.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from sinai.common.sources import COMPARISON, sources
from sinai.model.checkpoint import bundled, load
from sinai.report.cli import main as sinai
from sinai.report.run import trace_digest
from sinai.traces.schema import load as load_trace

CHECKPOINT = "resnet18-cifar10jpeg"

#: Machine, scheme, changes of the machine.
RUNS = (
    ("structured", "structured:7:8", ()),
    ("unstructured", "unstructured:0.9", ()),
    ("structured", "structured:7:8", ("dma.capacity_kib=1024",)),
    ("unstructured", "unstructured:0.9", ("dma.capacity_kib=1024",)),
    ("structured", "dense", ()),
    ("unstructured", "dense", ()),
)


def run(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = bundled()[CHECKPOINT]
    results = []
    for machine, scheme, changes in RUNS:
        label = scheme.replace(":", "-")
        trace = folder / f"resnet18-{label}.npz"
        if not trace.exists() or _model_of(trace) != load(checkpoint).digest:
            export = ["trace", "export", "--checkpoint", CHECKPOINT]
            export += ["--data", f"npz:{checkpoint / 'images.npz'}", "--images", "1"]
            export += ["--scheme", scheme, "--calibration", "16", "--operands", "--force"]
            if failed := sinai([*export, "-o", str(trace)]):
                return failed
        result = folder / "-".join((machine, label, *(c.replace("=", "-") for c in changes)))
        results.append(result)
        if not _is_of_today(result, trace):
            began = time.process_time()
            command = ["validate", str(trace), "--machine", machine, "-o", str(result), "--force"]
            for change in changes:
                command += ["--set", change]
            status = sinai(command)
            if not _is_of_today(result, trace):
                return status
            spent = time.process_time() - began
            (result / "cpu_seconds.txt").write_text(f"{spent:.0f}\n", encoding="utf-8")
    print(table(results))
    return int(any(map(_differences, map(_record, results))))


def _model_of(trace: Path) -> str:
    return load_trace(trace).manifest.model_digest


def _is_of_today(result: Path, trace: Path) -> bool:
    """Whether it is a result of this trace and this code."""
    if not (result / "validation.json").exists():
        return False
    record = _record(result)
    found = record["trace_digest"], record.get("sources")
    return found == (trace_digest(load_trace(trace)), sources(*COMPARISON))


def _record(result: Path) -> dict[str, Any]:
    return json.loads((result / "validation.json").read_text(encoding="utf-8"))


def _differences(record: dict[str, Any]) -> int:
    return sum(record[f"{what}_mismatched"] for what in ("counters", "blocks", "bytes"))


def table(results: list[Path]) -> str:
    """The results in these folders as a table in Markdown."""
    lines = [
        "| machine | scheme | accounting | layers | RTL cycles | counters | block times | bytes"
        " | differences | CPU-s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in sorted(results):
        record = _record(result)
        capacity = record["machine"]["dma"]["capacity_kib"]
        accounting = f"{capacity} KiB, streamed" if capacity else "resident"
        spent = (result / "cpu_seconds.txt").read_text(encoding="utf-8").strip()
        counts = (f"{record[f'{what}_compared']:,}" for what in ("counters", "blocks", "bytes"))
        cells = (
            record["machine"]["name"],
            f"`{record['scheme']}`",
            accounting,
            str(record["layers"]),
            f"{record['cycles']:,}",
            *counts,
            f"**{_differences(record)}**",
            spent,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/networks"))
    raise SystemExit(run(parser.parse_args().output))
