"""Both engines on every image of every bundled trace: equal in all, and how fast each is.

Run with `python benchmarks/bench_engines.py`, or `make engines`; takes a quarter of an hour. Every
trace runs on the machines of its scheme. Prints CPU seconds and simulated cycles a CPU second of
each engine; where the program alone decides the work, all images of a trace are one simulation and
count once. Exit status 1 if a layer or an event count differs, or the stepped engine misses its
target.
"""

import sys
import time

from sinai.common.machine import PRESETS
from sinai.sim import simulate
from sinai.traces.schema import bundled, load

TARGET = 1e5  # cycles a CPU second, stepped engine


def main() -> int:
    print(f"{'trace':28} {'machine':22} {'cycles':>9} {'fast':>9} {'stepped':>9}  cycles/CPU-s")
    failed = False
    for name, path in bundled().items():
        trace = load(path)
        regular = trace.scheme.structured
        for machine in ("unstructured", "structured", "structured-expanded"):
            if regular and machine == "unstructured":
                continue
            results, rates = [], []
            for engine in ("fast", "stepped"):
                began = time.process_time()
                images = [0] if regular else None
                result = simulate(trace, PRESETS[machine], images=images, engine=engine)
                results.append(result)
                rates.append(result.layers["cycles"].sum() / (time.process_time() - began))
            fast, stepped = results
            equal = fast.layers.equals(stepped.layers) and fast.counts.equals(stepped.counts)
            slow = bool(rates[1] < TARGET)
            failed |= slow or not equal
            print(
                f"{name:28} {machine:22} {fast.layers['cycles'].sum():9} {rates[0]:9.2g}"
                f" {rates[1]:9.2g}  {'equal' if equal else 'DIFFERENT'}{', too slow' * slow}",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
