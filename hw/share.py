"""Submodules that Verilog holds once, however many instances there are.

Amaranth emits a module for each instance. `shared` marks a component as one of several equal ones:
in simulation it is an ordinary submodule; when an :class:`Emitter` writes Verilog, it becomes an
instance of a module that the emitter writes once.
"""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal
from amaranth.lib.wiring import Component

__all__ = ["Emitter", "shared"]


class Emitter:
    """Platform of an emission: collects the shared components by their `module_name`."""

    def __init__(self) -> None:
        self.modules: dict[str, Component] = {}


def shared(component: Component, platform: object) -> Elaboratable:
    """Return what to add as a submodule for `component`.

    Components of one `module_name` must be equal in all their parameters.
    """
    if not isinstance(platform, Emitter):
        return component
    platform.modules.setdefault(component.module_name, component)
    ports = {}
    for name, member in component.signature.members.items():
        prefix = {"In": "i", "Out": "o"}[member.flow.name]
        ports[f"{prefix}_{name}"] = getattr(component, name)
    return Instance(component.module_name, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
