# amaranth: UnusedElaboratable=no
"""Verilog of the leaf designs of a machine, with a description of their ports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amaranth.back import verilog as backend
from amaranth.hdl import Shape

from ..common.errors import InputError
from ..common.machine import Machine
from .pse import PSE
from .vpu import VPU

__all__ = ["WAIVERS", "Waiver", "ports", "verilog", "write"]


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
        "*",
        "named aliases for waveforms, and top bits of sums whose range is known to be smaller",
    ),
    Waiver(
        "WIDTHEXPAND",
        "*Operator ADD expects*SIGNED generates*",
        "signed terms of different width are added; $signed() extends them as intended",
    ),
)

#: Added to every design by the emitter.
_CLOCK = {
    "clk": "clock, rising edge",
    "rst": "reset, synchronous, high; keep it up for one edge before use",
}


def verilog(machine: Machine) -> dict[str, str]:
    """Return the Verilog of each design of `machine`, by design name: sinai_pse and sinai_vpu.

    The names of modules and ports are stable; those inside are not.
    """
    return {
        name: _heading(name, machine)
        + backend.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
        for name, component in _designs(machine).items()
    }


def ports(machine: Machine) -> dict[str, Any]:
    """Return a description of the designs that JSON can hold.

    For each design name: `latency` in cycles and `ports`, a list of name, direction (``"input"`` or
    ``"output"``), width in bits, signed, meaning.
    """
    return {
        name: {
            "latency": component.latency,
            "ports": [
                *(_port(port, "input", 1, False, text) for port, text in _CLOCK.items()),
                *_members(component),
            ],
        }
        for name, component in _designs(machine).items()
    }


def write(machine: Machine, directory: Path) -> list[Path]:
    """Write a .v file a design, ports.json and verilator.vlt (the waivers); return their paths.

    The directory is made if need be.

    Raises
    ------
    InputError
        If the directory or a file in it cannot be written.
    """
    directory = Path(directory)
    files = {f"{name}.v": text for name, text in verilog(machine).items()}
    description = {"machine": machine.name, "version": version("sinai"), "designs": ports(machine)}
    files["ports.json"] = json.dumps(description, indent=2) + "\n"
    files["verilator.vlt"] = _waiver_file()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written ({error.strerror}); give a directory that can"
        ) from None
    return [directory / name for name in files]


def _designs(machine: Machine) -> Mapping[str, PSE | VPU]:
    return {
        "sinai_pse": PSE(),
        "sinai_vpu": VPU(machine.pses, machine.accumulators),
    }


def _heading(name: str, machine: Machine) -> str:
    lines = [f"{name}, written by sinai {version('sinai')} for this machine:", ""]
    lines += machine.to_yaml().splitlines()
    return "".join(f"// {line}".rstrip() + "\n" for line in lines) + "\n"


def _members(component: PSE | VPU) -> list[dict[str, Any]]:
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


def _waiver_file() -> str:
    rules = "".join(
        f'\n// {waiver.reason}\nlint_off -rule {waiver.rule} -file "*" -match "{waiver.match}"\n'
        for waiver in WAIVERS
    )
    return "`verilator_config\n" + rules
