"""How long all of Figure 5 takes, and how much memory.

Run with `python benchmarks/bench_figure5.py`. Makes the figure once, with the bundled traces, every
network, machine and sweep, in two processes, into a temporary directory. Prints wall time, CPU
seconds of all processes and the sum of their largest memories, each beside its target. Wall time
depends on what else the machine does; the target is for two free cores.
"""

import resource
import tempfile
import time

from sinai.report.figure5 import figure5

WORKERS = 2

if __name__ == "__main__":
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        figure5(directory, workers=WORKERS, progress=False)
    wall = time.perf_counter() - began
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(use.ru_utime + use.ru_stime for use in (own, children))
    # ru_maxrss of children is that of the largest one, in KiB.
    memory = (own.ru_maxrss + WORKERS * children.ru_maxrss) / 1024
    print(f"figure 5: {wall:.0f} s wall (target 60 s on two free cores)")
    print(f"figure 5: {cpu:.0f} CPU-s (target 120, two cores for 60 s)")
    print(f"figure 5: {memory:.0f} MiB in {WORKERS + 1} processes (target 1024 MiB)")
