"""Gate netlists of our own RTL, and C++ that evaluates them for many operands at once.

Amaranth's RTLIL goes through yosys (`synth`, no technology mapping); each gate becomes one bitwise
operation on a vector whose every bit is an independent set of operands.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from amaranth.back import rtlil
from amaranth.lib.wiring import Component

from ..common.errors import MissingError

__all__ = ["Gate", "Netlist", "evaluator", "synthesise"]

#: Value of a gate's output. `$_MUX_` gives B where S is set.
_EXPRESSIONS = {
    "$_NOT_": "~{A}",
    "$_AND_": "{A} & {B}",
    "$_OR_": "{A} | {B}",
    "$_XOR_": "{A} ^ {B}",
    "$_MUX_": "{A} ^ (({A} ^ {B}) & {S})",
}

#: Registers, clocked by the rising edge, and when they do not load D: enable low, reset high.
_REGISTERS = {
    "$_DFF_P_": (),
    "$_DFFE_PP_": ("~{E}",),
    "$_SDFF_PP0_": ("{R}",),
    "$_SDFFE_PP0P_": ("~{E}", "{R}"),
}

#: Runs in a process of its own, since yosys writes to standard output as it likes.
_SCRIPT = """
import sys
from pyosys import libyosys
source, top, target = sys.argv[1:]
design = libyosys.Design()
for command in (
    f"read_rtlil {source}",
    f"synth -flatten -noabc -top {top}",
    "opt_clean -purge",
    f"write_json {target}",
):
    libyosys.run_pass(command, design)
"""

Bit = int | str


@dataclass(frozen=True)
class Gate:
    """One cell: `pins` maps its pin names to net numbers, or to the constants ``"0"``, ``"1"``."""

    kind: str
    pins: dict[str, Bit]


@dataclass(frozen=True)
class Netlist:
    """A flat design: ports (low bit first) and gates."""

    inputs: dict[str, list[Bit]]
    outputs: dict[str, list[Bit]]
    gates: list[Gate]


def synthesise(component: Component) -> Netlist:
    """Return the gates of `component`.

    Raises
    ------
    MissingError
        If pyosys is not installed.
    """
    if find_spec("pyosys") is None:
        raise MissingError("Gate netlists need pyosys; install it with: pip install 'sinai[rtl]'")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "design.il"), Path(folder, "design.json")
        source.write_text(rtlil.convert(component, name="design"), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(source), "design", str(target)],
            check=True,
            capture_output=True,
        )
        design = json.loads(target.read_text(encoding="utf-8"))["modules"]["design"]
    ports = {
        way: {
            name: port["bits"]
            for name, port in design["ports"].items()
            if port["direction"] == way and name != "clk"
        }
        for way in ("input", "output")
    }
    gates = [
        Gate(cell["type"], {pin: bits[0] for pin, bits in cell["connections"].items()})
        for cell in design["cells"].values()
    ]
    return Netlist(ports["input"], ports["output"], gates)


def evaluator(netlist: Netlist) -> str:
    """Return C++ that settles the netlist with every register a wire: long after the inputs came.

    ``struct Pins`` has an array of ``V`` for each port, and ``V settle(Pins &pins)`` sets its
    outputs. Each bit of ``V``, a type that the including code defines, is a case of its own. The
    result has a bit set where some register would not have loaded.

    Raises
    ------
    ValueError
        If the netlist has a cell of another kind, or a loop.
    """
    members = "".join(
        f"  V {name}[{len(bits)}];\n" for name, bits in (netlist.inputs | netlist.outputs).items()
    )
    lines = [
        f"const V n{bit} = pins.{name}[{index}];"
        for name, bits in netlist.inputs.items()
        for index, bit in enumerate(bits)
    ]
    held = []
    for gate in _in_order(netlist):
        pins = {pin: _net(bit) for pin, bit in gate.pins.items()}
        if gate.kind in _REGISTERS:
            lines.append(f"const V {pins['Q']} = {pins['D']};")
            held += [condition.format(**pins) for condition in _REGISTERS[gate.kind]]
        else:
            lines.append(f"const V {pins['Y']} = {_EXPRESSIONS[gate.kind].format(**pins)};")
    lines += [
        f"pins.{name}[{index}] = {_net(bit)};"
        for name, bits in netlist.outputs.items()
        for index, bit in enumerate(bits)
    ]
    lines.append(f"return {' | '.join(dict.fromkeys(held)) or 'V{}'};")
    body = "\n  ".join(lines)
    return f"struct Pins {{\n{members}}};\n\nstatic V settle(Pins &pins) {{\n  {body}\n}}\n"


def _net(bit: Bit) -> str:
    return {"0": "V{}", "1": "~V{}"}[bit] if isinstance(bit, str) else f"n{bit}"


def _in_order(netlist: Netlist) -> list[Gate]:
    """The gates, each behind those that drive it."""
    unknown = {gate.kind for gate in netlist.gates} - _EXPRESSIONS.keys() - _REGISTERS.keys()
    if unknown:
        raise ValueError(f"No meaning is known of the cells {', '.join(sorted(unknown))}")
    driven = {bit for bits in netlist.inputs.values() for bit in bits}
    waiting, ordered = netlist.gates, []
    while waiting:
        later = []
        for gate in waiting:
            output = "Q" if gate.kind in _REGISTERS else "Y"
            needs = [
                bit
                for pin, bit in gate.pins.items()
                if pin not in (output, "C") and not isinstance(bit, str)
            ]
            if all(bit in driven for bit in needs):
                driven.add(gate.pins[output])
                ordered.append(gate)
            else:
                later.append(gate)
        if len(later) == len(waiting):
            raise ValueError(f"{len(later)} gates form a loop or lack a driver")
        waiting = later
    return ordered
