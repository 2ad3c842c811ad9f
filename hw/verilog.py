# amaranth: UnusedElaboratable=no
"""Verilog of a machine: the designs, the memories, and the files that tools want beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from amaranth.hdl import Shape
from amaranth.lib.wiring import Component

from ..common.errors import InputError
from ..common.machine import Machine
from .core import Core
from .pse import PSE
from .registers import describe
from .share import Emitter
from .sram import Sram
from .vpu import VPU

__all__ = ["WAIVERS", "Design", "Memories", "Waiver", "design", "ports", "write"]

#: Where the SRAMs go: into the file of the design, or into one of their own.
Memories = Literal["flat", "blackbox"]


@dataclass(frozen=True)
class Waiver:
    """A Verilator warning that is accepted: its rule, the text it must match, and why."""

    rule: str
    match: str
    reason: str


#: Warnings that the emitted files give under `verilator -Wall`, all from how they are emitted.
WAIVERS = (
    Waiver(
        "DECLFILENAME",
        "*",
        "one file holds a design with its submodules, so that it can be read alone",
    ),
    Waiver(
        "PROCASSINIT",
        "*",
        "Amaranth gives registers an initial value besides the reset; FPGAs load it, ASICs drop it",
    ),
    Waiver(
        "UNUSEDSIGNAL",
        "*Signal is not used: '$*",
        "outputs of submodules that the design at hand does not need; their wires have no name",
    ),
    Waiver(
        "UNUSEDSIGNAL",
        "*Signal is not used: 'o_valid*",
        "an output of a submodule that the design at hand does not need, as it counts cycles",
    ),
    Waiver(
        "UNUSEDSIGNAL",
        "*Signal is not used: 'added'*",
        "last valid bit of a pipeline whose user counts cycles; synthesis drops it",
    ),
    Waiver(
        "UNUSEDSIGNAL",
        "*Signal is not used: 'scaled_1_2_3'*",
        "last valid bit of a second pipeline beside one that has the same valid bits",
    ),
    Waiver(
        "UNUSEDSIGNAL",
        "*Bits of signal are not used*",
        "top bits of sums whose range is known to be smaller, and bits that a shift drops",
    ),
    Waiver(
        "CASEINCOMPLETE",
        "*Case values incompletely covered*",
        "values without a case keep what was assigned before the case statement",
    ),
    Waiver(
        "VARHIDDEN",
        "*hides declaration in upper scope*",
        "a register may have the name of the submodule it is in; no name crosses a module",
    ),
    Waiver(
        "WIDTHEXPAND",
        "*Operator *expects*generates*",
        "operands of different width are extended, by $signed() where they are signed; none is cut",
    ),
    Waiver(
        "WIDTHTRUNC",
        "*Logical operator LOGNOT expects 1 bit*",
        "`!` asks whether a number is zero",
    ),
    Waiver(
        "WIDTHTRUNC",
        "*Operator ASSIGNW expects*SHIFTR generates*",
        "the low bits of a shifted word are a part selected at a variable place",
    ),
)

#: Added to every design by the emitter.
_CLOCK = {
    "clk": "clock, rising edge",
    "rst": "reset, synchronous, high; keep it up for one edge before use",
}

#: Shares of a clock period that a design leaves to what is outside, by port direction; assumed.
OUTSIDE = {"input": 0.3, "output": 0.3}

#: What a memory macro has to do, for whoever replaces the behavioural ones.
BEHAVIOUR = (
    "One read and one write port, both on the rising edge of clk; there is no reset. With read_en"
    " the word at read_address is on read_data after the edge and stays there until the next edge"
    " with read_en. Bit n of write_en writes bits n*granularity to (n+1)*granularity-1 of"
    " write_data into the word at write_address. A word that is read at the edge that writes it"
    " reads as before. Nothing relies on what a word holds before it is written."
)


@dataclass(frozen=True)
class Design:
    """A design as Verilog.

    `text` holds all of its modules but those of SRAMs, the design first; `sram_text` holds those,
    and `srams` lists them with the number of instances of each.
    """

    text: str
    sram_text: str
    srams: tuple[tuple[Sram, int], ...]


def design(component: Component, emitter: Emitter | None = None) -> Design:
    """Return the Verilog of `component` under its `module_name`.

    Shared modules that `emitter` holds from other designs are not made again.
    """
    emitter = emitter or Emitter()
    emitter.emit(component)
    logic, memories = [], []
    for name, instances in emitter.reach(component.module_name).items():
        entry = emitter.entries[name]
        if isinstance(entry.component, Sram):
            memories.append((entry.component, instances))
        else:
            logic.append(entry.verilog)
    memories.sort(key=lambda item: item[0].module_name)
    return Design(
        "\n".join(logic),
        "\n".join(emitter.entries[sram.module_name].verilog for sram, _ in memories),
        tuple(memories),
    )


def ports(machine: Machine) -> dict[str, Any]:
    """Return a description of the designs that JSON can hold.

    For each design name `ports`, a list of name, direction (``"input"`` or ``"output"``), width in
    bits, signed, meaning; and `latency` in cycles, where a design has a fixed one.
    """
    described = {}
    for component in _designs(machine):
        fixed = {"latency": component.latency} if hasattr(component, "latency") else {}
        clocks = [_port(port, "input", 1, False, text) for port, text in _CLOCK.items()]
        described[component.module_name] = {**fixed, "ports": clocks + _members(component)}
    return described


def write(machine: Machine, directory: Path, *, memories: Memories = "flat") -> list[Path]:
    """Write the Verilog of `machine` and what goes with it; return the paths.

    NAME.v and NAME.sdc for each design, sinai_pse, sinai_vpu and sinai_core; ports.json;
    registers.json (what the host port of the core reaches); verilator.vlt (the waivers). Names of
    designs and of their ports are stable; those inside are not. Equal arguments give equal texts.
    With `memories` "blackbox" SRAMs are only instantiated: sinai_sram.v has a behavioural module
    for each, and memories.json lists them. The directory is made if need be.

    Raises
    ------
    InputError
        If `memories` is another word; if the directory or a file in it cannot be written.
    """
    if memories not in get_args(Memories):
        raise InputError(f"memories must be flat or blackbox, not {memories!r}")
    directory = Path(directory)
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    heading = {"machine": machine.name, "version": version("sinai")}
    emitted = _emitted(machine)
    described = ports(machine)
    files = {f"{name}.v": text for name, text in _texts(machine, emitted, memories).items()}
    files |= {f"{name}.sdc": _constraints(name, machine, described[name]) for name in described}
    files["ports.json"] = _json(heading | {"designs": described})
    files["registers.json"] = _json(heading | describe(machine))
    files["verilator.vlt"] = _waiver_file()
    if memories == "blackbox":
        files["memories.json"] = _json(
            heading
            | {
                "file": "sinai_sram.v",
                "behaviour": BEHAVIOUR,
                "designs": {name: _memory_list(made) for name, made in emitted.items()},
            }
        )
    with _writing(directory):
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in files]


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written ({error.strerror}); give a directory that can"
        ) from None


def _designs(machine: Machine) -> tuple[Component, ...]:
    return (
        PSE(),
        VPU(machine.pses, machine.accumulators),
        Core(machine),
    )


def _emitted(machine: Machine) -> dict[str, Design]:
    emitter = Emitter()
    return {component.module_name: design(component, emitter) for component in _designs(machine)}


def _texts(machine: Machine, emitted: dict[str, Design], memories: Memories) -> dict[str, str]:
    flat = memories == "flat"
    texts = {
        name: "\n".join([_heading(name, machine), made.text, *([made.sram_text] if flat else [])])
        for name, made in emitted.items()
    }
    if not flat:
        srams = {sram.module_name: sram for made in emitted.values() for sram, _ in made.srams}
        modules = [srams[name].verilog() for name in sorted(srams)]
        texts["sinai_sram"] = "\n".join([_heading("sinai_sram", machine), *modules])
    return texts


def _heading(name: str, machine: Machine) -> str:
    lines = [f"{name}, written by sinai {version('sinai')} for this machine:", ""]
    lines += machine.to_yaml().splitlines()
    return "".join(f"// {line}".rstrip() + "\n" for line in lines)


def _members(component: Component) -> list[dict[str, Any]]:
    described = []
    for name, member in component.signature.members.items():
        shape = Shape.cast(member.shape)
        direction = {"In": "input", "Out": "output"}[member.flow.name]
        described.append(
            _port(name, direction, shape.width, shape.signed, component.MEANINGS[name])
        )
    return described


def _port(name: str, direction: str, width: int, signed: bool, meaning: str) -> dict[str, Any]:
    return {
        "name": name,
        "direction": direction,
        "width": width,
        "signed": signed,
        "meaning": meaning,
    }


def _memory_list(made: Design) -> list[dict[str, Any]]:
    return [
        {
            "name": sram.module_name,
            "width": sram.width,
            "depth": sram.depth,
            "granularity": sram.granularity,
            "instances": instances,
        }
        for sram, instances in made.srams
    ]


def _constraints(name: str, machine: Machine, described: dict[str, Any]) -> str:
    """Timing constraints in SDC, times in nanoseconds."""
    period = machine.clock_ns
    lines = [
        f"# {name} of machine {machine.name}; times in ns.",
        f"create_clock -name clk -period {period:g} [get_ports clk]",
        f"# Assumed: inputs arrive after {OUTSIDE['input']:.0%} of the period, outputs are wanted"
        f" {OUTSIDE['output']:.0%} of it before its end.",
    ]
    for direction, share in OUTSIDE.items():
        names = " ".join(
            port["name"]
            for port in described["ports"]
            if port["direction"] == direction and port["name"] != "clk"
        )
        lines.append(f"set_{direction}_delay {share * period:g} -clock clk [get_ports {{{names}}}]")
    lines.append("# rst is sampled by the clock like any input, so it has no false path.")
    return "\n".join(lines) + "\n"


def _waiver_file() -> str:
    rules = "".join(
        f'\n// {waiver.reason}\nlint_off -rule {waiver.rule} -file "*" -match "{waiver.match}"\n'
        for waiver in WAIVERS
    )
    return "`verilator_config\n" + rules


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
