"""Whole networks through the hardware: every convolution of ResNet-18 on the published machines.

Run with `make networks`, or `python benchmarks/networks.py [-o DIR]`. Exports the operands of one
real image under each scheme, runs every layer on the machine's own Verilog and compares every
counter, block time and byte with the simulator and the integer model (`sinai validate`). Compiling
the two machines takes some minutes of CPU time, once; each run some more. Interrupted, it goes on
where it was: layer by layer, and what is in DIR already is not made again. Prints a table in
Markdown; exit status 1 if anything differs.
"""

import argparse
import json
import time
from pathlib import Path

from sinai.model.checkpoint import bundled
from sinai.report.cli import main as sinai

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
    images = bundled()[CHECKPOINT] / "images.npz"
    status = 0
    for machine, scheme, changes in RUNS:
        label = scheme.replace(":", "-")
        trace = folder / f"resnet18-{label}.npz"
        if not trace.exists():
            export = ["trace", "export", "--checkpoint", CHECKPOINT, "--data", f"npz:{images}"]
            export += ["--scheme", scheme, "--images", "1", "--calibration", "16", "--operands"]
            if failed := sinai([*export, "-o", str(trace)]):
                return failed
        result = folder / "-".join((machine, label, *(c.replace("=", "-") for c in changes)))
        if not (result / "validation.json").exists():
            began = time.process_time()
            command = ["validate", str(trace), "--machine", machine, "-o", str(result)]
            for change in changes:
                command += ["--set", change]
            status = max(status, sinai(command))
            if not (result / "validation.json").exists():
                return status
            spent = time.process_time() - began
            (result / "cpu_seconds.txt").write_text(f"{spent:.0f}\n", encoding="utf-8")
    print(table(folder))
    return status


def table(folder: Path) -> str:
    """The results in `folder` as a table in Markdown."""
    lines = [
        "| machine | scheme | accounting | layers | RTL cycles | counters | block times | bytes"
        " | differences | CPU-s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*/validation.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        differences = sum(record[f"{what}_mismatched"] for what in ("counters", "blocks", "bytes"))
        capacity = record["machine"]["dma"]["capacity_kib"]
        accounting = f"{capacity} KiB, streamed" if capacity else "resident"
        spent = (path.parent / "cpu_seconds.txt").read_text(encoding="utf-8").strip()
        counts = (f"{record[f'{what}_compared']:,}" for what in ("counters", "blocks", "bytes"))
        cells = (
            record["machine"]["name"],
            f"`{record['scheme']}`",
            accounting,
            str(record["layers"]),
            f"{record['cycles']:,}",
            *counts,
            f"**{differences}**",
            spent,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/networks"))
    raise SystemExit(run(parser.parse_args().output))
