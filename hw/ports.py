"""Interfaces of the memories, as their users see them."""

from __future__ import annotations

from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

__all__ = ["read_port", "write_port"]


def read_port(width: int, depth: int) -> Signature:
    """Read port of a bank: what is addressed with `en` is on `data` in the next cycle and stays."""
    return Signature({"en": Out(1), "address": Out(ceil_log2(depth)), "data": In(width)})


def write_port(width: int, depth: int, enables: int = 1) -> Signature:
    """Write port of a bank, with `enables` equal slices that are written one by one."""
    return Signature({"en": Out(enables), "address": Out(ceil_log2(depth)), "data": Out(width)})
