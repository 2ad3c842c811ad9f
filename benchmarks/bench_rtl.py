"""How fast the compiled RTL of the published machines simulates.

Run with `python benchmarks/bench_rtl.py [MACHINE ...]`. Compiles each core, unless it is cached,
then plays one layer of a ResNet-18, 3x3 on 14x14 pixels of 128 channels, with random numbers and
7/8 of the neurons noisy, three times, and prints simulated cycles per second beside the target.
One thread each; the rate by CPU time does not depend on what else the machine does, the wall time
of the compilation does.
"""

import statistics
import sys
import time

import numpy as np

from sinai.common.cases import Case, operands_of, random_spec
from sinai.common.commands import commands
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS
from sinai.common.operands import input_stream
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.hw.driver import play
from sinai.hw.verilated import VerilatedCore

#: Cycles per second.
TARGET, LEAST = 20_000, 3_000

LAYER = Layer(
    name="layer2", c_in=128, c_out=128, kernel=3, stride=1, padding=1, h_in=14, w_in=14, k=128
)


def bench(name: str) -> None:
    machine = PRESETS[name]
    began = time.perf_counter()
    core = VerilatedCore(machine)
    built = time.perf_counter() - began
    rng = np.random.default_rng(1)
    operands = operands_of(rng, random_spec(rng, LAYER), machine)
    scheme = Scheme.parse("unstructured:0.875" if machine.unstructured else "structured:7:8")
    reference = Case(operands, scheme, None, 1).reference()
    theta = reference.theta[0] if machine.unstructured else None
    made = commands(compile_layer(LAYER, machine, scheme), operands.spec, theta=theta)
    stream = input_stream(made, operands)
    rates = []
    for _ in range(3):
        cycles, began = core.cycle, time.process_time()
        play(core, made, stream)
        cycles = core.cycle - cycles
        rates.append(cycles / (time.process_time() - began))
    print(
        f"{name}: {statistics.median(rates):,.0f} cycles a CPU second"
        f" ({min(rates):,.0f} to {max(rates):,.0f}, 3 runs of {cycles:,}; target {TARGET:,}, at"
        f" least {LEAST:,}); core ready after {built:.0f} s"
    )


if __name__ == "__main__":
    for machine in sys.argv[1:] or ("structured", "structured-expanded", "unstructured"):
        bench(machine)
