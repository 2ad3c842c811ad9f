"""CPU seconds and memory of simulating an image or a batch, and simulated cycles a CPU second.

Run with `python benchmarks/bench_simulate.py`. Every line is a fresh process, median of three;
it loads the trace and simulates one image, or one batch of 16, imports not counted in the seconds
but in the memory. Masks are those of the bundled trace, synthetic where it has too few images.
Machines differ: compare with the targets in order of magnitude.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from sinai.traces import bundled, load
from sinai.traces.synth import synthesise

CHILD = """
import json, resource, sys, time
import numpy, pandas
from sinai.common.machine import load_machine
from sinai.sim import simulate
from sinai.traces import load
began = time.process_time()
batch = int(sys.argv[3])
result = simulate(load(sys.argv[1]), load_machine(sys.argv[2]), images=range(batch), batch=batch)
seconds = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps([seconds, peak, result.cycles]))
"""

# Trace, machine, batch, and what to reach: CPU seconds, GiB, or cycles a CPU second.
RUNS = [
    ("resnet18", "unstructured:0.9", "unstructured", 1, 1, 0.3, None),
    ("resnet18", "structured:7:8", "structured", 1, 1, 0.3, None),
    ("wrn34_10", "unstructured:0.9", "unstructured", 1, 5, 0.5, None),
    ("wrn34_10", "structured:7:8", "structured", 1, 5, 0.5, None),
    ("wrn34_10", "dense", "unstructured", 16, None, None, 1e8),
    ("wrn34_10", "unstructured:0.9", "unstructured", 16, None, None, 1e8),
    ("wrn34_10", "structured:7:8", "structured", 16, None, None, 1e8),
]


def main() -> None:
    print(f"{'network':10} {'scheme':17} {'masks':9} {'batch':>5} {'CPU s':>7} {'target':>7}"
          f" {'GiB':>6} {'target':>7} {'cycles/CPU-s':>13} {'target':>8}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for network, scheme, machine, batch, seconds, gib, speed in RUNS:
            path = bundled().get(f"{network}-{scheme.replace(':', '-')}")
            real = path is not None and load(path).images >= batch
            if not real:
                path = Path(folder) / f"{network}-{machine}-{batch}.npz"
                synthesise(network, scheme, batch).save(path)
            samples = [
                json.loads(
                    subprocess.run(
                        [sys.executable, "-c", CHILD, str(path), machine, str(batch)],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for _ in range(3)
            ]
            cpu, peak, cycles = (statistics.median(column) for column in zip(*samples, strict=True))
            print(
                f"{network:10} {scheme:17} {'real' if real else 'synthetic':9} {batch:5}"
                f" {cpu:7.3f} {seconds or '':7} {peak:6.2f}"
                f" {gib or '':7} {cycles / cpu:13.3g} {f'{speed:.0e}' if speed else '':>8}"
            )


if __name__ == "__main__":
    main()
