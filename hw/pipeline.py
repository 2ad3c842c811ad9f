"""Two building blocks of every data path here: register stages and balanced adder trees."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value

__all__ = ["balanced_sum", "carried", "delay", "popcount", "wrapped"]


def delay(m: Module, cycles: int, valid: Signal, *values: Signal) -> tuple[Signal, ...]:
    """Return `valid` and `values` as they were `cycles` cycles ago; 0 leaves them.

    Each stage loads its values only while its `valid` is asserted, so an idle pipeline does not
    toggle and synthesis may gate its clock. Only `valid` is reset.
    """
    for stage in range(1, cycles + 1):
        later = Signal(name=f"{valid.name}_{stage}")
        held = tuple(
            Signal(value.shape(), name=f"{value.name}_{stage}", reset_less=True) for value in values
        )
        m.d.sync += later.eq(valid)
        with m.If(valid):
            m.d.sync += [new.eq(old) for new, old in zip(held, values, strict=True)]
        valid, values = later, held
    return valid, *values


def balanced_sum(values: Sequence[Value]) -> Value:
    """Sum by pairs, ceil(log2(len(values))) additions deep; no bit is lost."""
    values = list(values)
    while len(values) > 1:
        pairs = [low + high for low, high in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


def popcount(bits: Value) -> Value:
    """Number of ones."""
    return balanced_sum([bits[i] for i in range(len(bits))])


def carried(m: Module, cycles: int, name: str, valid: Value, *values) -> tuple[Signal, ...]:
    """:func:`delay` of expressions and structures, under names that begin with `name`.

    What comes back is plain bits.
    """
    signals = [Signal(name=name)]
    m.d.comb += signals[0].eq(valid)
    for n, value in enumerate(map(Value.cast, values)):
        signals.append(Signal(len(value), name=f"{name}_{n}"))
        m.d.comb += signals[-1].eq(value)
    return delay(m, cycles, *signals)


def wrapped(value: Value, limit: int) -> Value:
    """`value` modulo `limit`, for values below twice that."""
    return Mux(value >= limit, value - limit, value)
