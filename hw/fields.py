"""Descriptor fields as hardware registers: one layout made from the one table."""

from __future__ import annotations

from amaranth.hdl import Value, signed, unsigned
from amaranth.lib.data import StructLayout

from ..common.descriptor import Field, Flag, compute_fields, transfer_fields
from ..common.machine import Machine

__all__ = ["compute_layout", "flag", "transfer_layout"]


def compute_layout(machine: Machine) -> StructLayout:
    """Registers of a COMPUTE descriptor, each as wide as its legal values need."""
    return _layout(compute_fields(machine))


def transfer_layout(machine: Machine) -> StructLayout:
    """Registers of a TRANSFER descriptor likewise."""
    return _layout(transfer_fields(machine))


def _layout(fields: tuple[Field, ...]) -> StructLayout:
    return StructLayout(
        {field.name: (signed if field.signed else unsigned)(field.bits) for field in fields}
    )


def flag(config, which: Flag) -> Value:
    """Bit of the field `flags` of a compute descriptor."""
    return config.flags[which.value.bit_length() - 1]
