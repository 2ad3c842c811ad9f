"""The members that both compute engines have: how the core talks to either."""

from __future__ import annotations

from typing import Any

from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import STALL_CAUSES
from ..common.descriptor import MAX_PIXELS, memory_depth
from ..common.machine import Machine
from .fields import compute_layout
from .ports import read_port, write_port

__all__ = ["WAITS", "banks", "engine_members"]

#: Causes that an engine knows of; waiting for transfers is the sequencer's.
WAITS = StructLayout({cause: 1 for cause in STALL_CAUSES if cause != "dma"})


def banks(machine: Machine) -> dict[str, tuple[int, int]]:
    """Number and width of the banks of each memory; a row is all of them at one address."""
    lanes, beta, word = machine.lanes, machine.weight_words, 16 * machine.pses
    return {
        "weights": (lanes * beta, word),
        "x": (machine.columns, word),
        "y": (machine.vpus, 16),
        "residual": (machine.vpus, 16),
        "xq": (1, 4 * machine.rpu.word),
        "p": (machine.columns, 4 * word),
        "projection": (1, machine.rpu.port_bits),
        "parameters": (lanes * beta, 128),
        "masks": (lanes, 64) if machine.unstructured else (1, 8 * machine.vpus),
    }


def engine_members(machine: Machine) -> dict[str, Any]:
    """Members of a compute engine.

    config : fields of the descriptor, held while it runs.
    start, stop : launch, cycle 0 is the next one; forget everything.
    go : pulse, the projection unit may begin in the next cycle.
    ready, base_slot, freed : p that may be issued, where it begins, pixels used up.
    weights, x, p, parameters, residual, masks : read ports of the banks.
    y, sums, select : write ports of the y, residual and mask banks.
    running : from cycle 0 until the last output is written. done : pulse in the cycle after.
    issue : a VPU issues. waits : what is missing otherwise; the first that holds counts.
    step_begin, step_end, step_exact : first and last issue of a step, and its phase.
    """

    def port(name: str):
        return banks(machine)[name][1], memory_depth(machine, name)

    def reads(name: str):
        return Out(read_port(*port(name))).array(banks(machine)[name][0])

    def writes(name: str, enables: int = 1):
        return Out(write_port(*port(name), enables)).array(banks(machine)[name][0])

    pixels = MAX_PIXELS.bit_length()
    chunks = 64 // machine.window if machine.unstructured else 1
    return {
        "config": In(compute_layout(machine)),
        "start": In(1),
        "stop": In(1),
        "go": Out(1),
        "ready": In(pixels),
        "base_slot": In(ceil_log2(memory_depth(machine, "p"))),
        "freed": Out(pixels),
        **{n: reads(n) for n in ("weights", "x", "p", "parameters", "residual", "masks")},
        "y": writes("y"),
        "sums": writes("residual"),
        "select": writes("masks", chunks),
        "running": Out(1),
        "done": Out(1),
        "issue": Out(1),
        "waits": Out(WAITS),
        "step_begin": Out(1),
        "step_end": Out(1),
        "step_exact": Out(1),
    }
