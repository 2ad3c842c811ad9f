"""The host's part: write a layer's descriptors, start, feed the streams, read the counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..common.commands import Commands
from ..common.errors import CheckError
from ..common.machine import Machine
from .counters import COUNTERS
from .registers import registers, windows
from .verilated import Condition, Run, VerilatedCore

__all__ = ["Played", "counters", "play", "play_words"]

_ADDRESSES = {"START": 1, "CLEAR": 2, "RESET": 4}
_IDLE, _STOPPED = 2, 4


@dataclass(frozen=True)
class Played:
    """What a program did: `run` as the outside saw it, `counters` as the core counted, and the
    error code of STATUS, 0 if none."""

    run: Run
    counters: dict[str, int]
    error: int

    @property
    def output(self) -> bytes:
        return self.run.output


def play(
    core: VerilatedCore,
    made: Commands,
    data: bytes | np.ndarray,
    *,
    input_gaps: float = 0.0,
    output_gaps: float = 0.0,
    seed: int = 0,
    limit: int = 50_000_000,
) -> Played:
    """Run the descriptors of a layer on `core`, with `data` on the input stream.

    Raises
    ------
    CheckError
        If the core reports an error, or is not done after `limit` cycles.
    """
    played = play_words(
        core,
        made.program.machine,
        made.transfer_words(),
        made.compute_words(),
        data,
        input_gaps=input_gaps,
        output_gaps=output_gaps,
        seed=seed,
        limit=limit,
    )
    if played.error or not played.run.finished:
        what = f"error {played.error}" if played.error else f"not done after {limit} cycles"
        raise CheckError(f"{made.program.machine.name}: layer {made.program.layer.name}: {what}")
    return played


def play_words(
    core: VerilatedCore,
    machine: Machine,
    transfers: Sequence[np.ndarray],
    computes: Sequence[np.ndarray],
    data: bytes | np.ndarray = b"",
    *,
    input_gaps: float = 0.0,
    output_gaps: float = 0.0,
    seed: int = 0,
    limit: int = 50_000_000,
) -> Played:
    """Like :func:`play`, of descriptors that may be wrong; never raises for what the core says."""
    at = {register.name: register.address for register in registers(machine)}
    core.write(at["CONTROL"], _ADDRESSES["START"] | _ADDRESSES["CLEAR"])
    queues = list(zip(windows(machine), (list(transfers), list(computes)), (0, 16), strict=True))
    sent = [0, 0]

    def refill() -> None:
        head = core.read(at["HEAD"]) if any(sent) else 0
        before = list(sent)
        for index, (window, words, low) in enumerate(queues):
            room = window.slots - (sent[index] - (head >> low) & 0xFFFF)
            new = words[sent[index] : sent[index] + room]
            for number, descriptor in enumerate(new, start=sent[index]):
                base = window.address + number % window.slots * window.slot_bytes
                for word, value in enumerate(descriptor.tolist()):
                    core.write(base + 4 * word, value)
            sent[index] += len(new)
        if sent != before:
            core.write(at["TAIL"], (sent[0] & 0xFFFF) | (sent[1] & 0xFFFF) << 16)

    refill()
    spent = 0
    options = {"input_gaps": input_gaps, "output_gaps": output_gaps, "seed": seed}
    while True:
        more = sent[0] < len(transfers) or sent[1] < len(computes)
        step = min(100 if more else 20_000, limit - spent)
        run = core.run(Condition(at["STATUS"], _IDLE, _IDLE), data, limit=step, **options)
        data = b""
        spent += run.cycles
        status = core.read(at["STATUS"])
        if status & _STOPPED or spent >= limit or (run.finished and not more):
            break
        refill()
    error = status >> 8 & 0xFF
    return Played(run, counters(core, machine), error)


def counters(core: VerilatedCore, machine: Machine) -> dict[str, int]:
    """Return all counters of the core by name."""
    at = {register.name: register.address for register in registers(machine)}
    values = {}
    for name in COUNTERS:
        low = core.read(at[f"{name.upper()}_LOW"])
        values[name] = low | core.read(at[f"{name.upper()}_HIGH"]) << 32
    return values
