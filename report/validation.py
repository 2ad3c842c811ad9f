"""One layer through RTL, simulator and integer model, compared to the cycle and the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.commands import Commands, commands
from ..common.contract import CONTRACT, STALL_CAUSES, Contract
from ..common.integer import LayerRun as Reference
from ..common.machine import Machine
from ..common.operands import Operands, input_stream, read_batch
from ..common.program import compile_layer
from ..common.scheme import Scheme
from ..hw.driver import Played, play
from ..hw.verilated import VerilatedCore
from ..sim.engine import LayerRun, simulate_layer
from ..sim.transfers import run_queues

__all__ = ["Comparison", "Difference", "compare", "compare_layer"]


@dataclass(frozen=True)
class Difference:
    """A value that differs: layer, kind ("counter", "step" or "bytes"), name, and both values; of
    bytes how many differ, of which it is the first."""

    layer: str
    kind: str
    name: str
    rtl: Any
    expected: Any
    count: int = 1

    def __str__(self) -> str:
        other = "integer model" if self.kind == "bytes" else "simulator"
        return f"{self.layer}: {self.kind} {self.name}: RTL {self.rtl}, {other} {self.expected}"


@dataclass(frozen=True)
class Comparison:
    """What was compared of a layer: how many counters, times of steps (first and last issue) and
    bytes, and what differs.

    `rtl` and `simulated` hold the counters by name.
    """

    layer: str
    counters: int
    steps: int
    bytes: int
    differences: tuple[Difference, ...]
    rtl: dict[str, int]
    simulated: dict[str, int]


def compare_layer(
    core: VerilatedCore,
    machine: Machine,
    operands: Operands | Sequence[Operands],
    scheme: Scheme,
    theta: int | Sequence[int] | None,
    reference: Reference | Sequence[Reference],
    *,
    contract: Contract = CONTRACT,
    gaps: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    spoil: Callable[[np.ndarray, Commands], np.ndarray] | None = None,
    alter: Callable[[LayerRun], LayerRun] | None = None,
) -> Comparison:
    """Run a layer on the RTL and in the simulator and compare them, and the outputs.

    Parameters
    ----------
    core : VerilatedCore
        Of `machine`.
    operands, scheme, theta
        The layer, of one image or, in sequences, of each of a batch; masks of the operands, if it
        has any, are injected.
    reference : LayerRun
        The integer model's run of it, or those of each image of a batch, one image each.
    contract : Contract
        Of the simulator.
    gaps : (float, float)
        Probability of a cycle in which the input and the output stream wait. The simulator knows no
        gaps; they change no cycle of a compute, and what they do change, the time between computes
        and that of transfers, is then not compared.
    spoil : callable, optional
        Changes the input stream, to show that it would be seen.
    alter : callable, optional
        Changes what the simulator says, likewise.

    Raises
    ------
    CheckError
        If the core reports an error or does not end.
    """
    images = [operands] if isinstance(operands, Operands) else operands
    references = [reference] if isinstance(reference, Reference) else reference
    spec, order = images[0].spec, images[0].order
    program = compile_layer(spec.layer, machine, scheme, len(images))
    made = commands(
        program,
        spec,
        theta=theta,
        inject=images[0].mask is not None and not scheme.dense,
        store_sums=bool(spec.layer.joined),
    )
    stream = input_stream(made, images)
    played = play(
        core,
        made,
        stream if spoil is None else spoil(stream, made),
        input_gaps=gaps[0],
        output_gaps=gaps[1],
        seed=seed,
    )
    mask = np.concatenate([each.mask for each in references])
    if order is not None:
        mask = mask[..., order]
    regular = scheme.dense or scheme.structured
    run = simulate_layer(program, None if regular else mask, contract, made.order)
    if alter is not None:
        run = alter(run)
    timed = gaps == (0.0, 0.0)
    return compare(made, order, played, run, references, contract, timed=timed)


def compare(
    made: Commands,
    order: np.ndarray | None,
    played: Played,
    run: LayerRun,
    references: Sequence[Reference],
    contract: Contract = CONTRACT,
    *,
    timed: bool = True,
) -> Comparison:
    """Compare what the RTL did with what the simulator and, of each image, the integer model say.

    `order` is the placement of the operands.
    """
    program, name = made.program, made.program.layer.name
    differences = []

    machine = program.machine
    computes = run.cycles - run.stalls["dma"]
    simulated = {
        "busy": run.busy,
        "approximate_busy": run.busy_approximate,
        **{f"stall_{cause}": run.stalls[cause] for cause in STALL_CAUSES if cause != "dma"},
    }
    if timed:
        # The core counts from the announcement of the descriptors in either accounting.
        announced = run.cycles
        if machine.resident:
            announced = run_queues(machine, made.order, run.computes, contract).ended
        simulated |= {"cycles": announced, "stall_dma": announced - computes}
        simulated |= {"cycles_load": run.cycles_load, "cycles_store": run.cycles_store}
    rtl = {key: played.counters[key] for key in simulated}
    # The testbench has counted the clock edges of computes besides.
    simulated |= {"edges": computes, "edges_busy": run.busy}
    rtl["edges"] = sum(compute.cycles for compute in played.run.computes)
    rtl["edges_busy"] = sum(compute.busy for compute in played.run.computes)
    for key, value in simulated.items():
        if rtl[key] != value:
            differences.append(Difference(name, "counter", key, rtl[key], value))

    seen = _rtl_steps(played)
    wanted = [(step.phase == "E", step.first, step.last) for step in run.steps if step.first >= 0]
    steps = 2 * max(len(seen), len(wanted))
    for index in range(max(len(seen), len(wanted))):
        one = seen[index] if index < len(seen) else (None, None, None)
        two = wanted[index] if index < len(wanted) else (None, None, None)
        if one != two:
            count = (one[1] != two[1]) + (one[2] != two[2])
            differences.append(Difference(name, "step", str(index), one, two, count or 2))

    count = 0
    outputs = read_batch(made, played.output, order=order)
    for image, (found, reference) in enumerate(zip(outputs, references, strict=True)):
        where = f"image {image} of the batch, " if len(outputs) > 1 else ""
        for key in ("y", "yq", "s", "mask"):
            values, expected = getattr(found, key), getattr(reference, key)[0]
            if values is None:
                continue
            count += values.nbytes
            wrong = np.argwhere(values != expected)
            if len(wrong):
                pixel, channel = wrong[0].tolist()
                differences.append(
                    Difference(
                        name,
                        "bytes",
                        f"{key}: {len(wrong)} of {values.size}, first at {where}pixel {pixel},"
                        f" channel {channel}",
                        int(values[pixel, channel]),
                        int(expected[pixel, channel]),
                        len(wrong) * values.itemsize,
                    )
                )
    return Comparison(name, len(simulated), steps, count, tuple(differences), rtl, simulated)


def _rtl_steps(played: Played) -> list[tuple[bool, int, int]]:
    return [
        (step.exact, step.begin, step.end)
        for compute in played.run.computes
        for step in compute.steps
    ]
