# amaranth: UnusedElaboratable=no
"""Positions of pixels, against division: any geometry, walked by pixels and by batches."""

import random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sinai.common.descriptor import MAX_KERNEL, MAX_SIDE
from sinai.hw.fields import compute_layout
from sinai.hw.positions import POSITION, first_position, inside, step_batch, step_pixel


class Walker(wiring.Component):
    """A pixel that goes on by one or by a batch, and whether a tap of it lies in x."""

    def __init__(self, machine):
        super().__init__(
            {
                "config": In(compute_layout(machine)),
                "start": In(1),
                "batch": In(1),
                "tap_row": In(4),
                "tap_column": In(4),
                "position": Out(POSITION),
                "inside": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        here, config = self.position, self.config
        by_batch, by_pixel = step_batch(config, here), step_pixel(config, here)
        for name, value in first_position(config).items():
            following = Signal(here[name].shape(), name=f"next_{name}")
            m.d.comb += following.eq(by_pixel[name])
            with m.If(self.batch):
                m.d.comb += following.eq(by_batch[name])
            with m.If(self.start):
                m.d.comb += following.eq(value)
            m.d.sync += here[name].eq(following)
        m.d.comb += self.inside.eq(inside(config, here, self.tap_row, self.tap_column))
        return m


@pytest.fixture(scope="module", params=[1, 2, 8, 64])
def walker(request, stepped, small):
    machine = small("structured", columns=request.param)
    walk = stepped(Walker(machine))
    walk.machine = machine
    return walk


SIDES = st.integers(1, 9) | st.sampled_from([MAX_SIDE - 1, MAX_SIDE])


@given(
    seed=st.integers(0, 1 << 32),
    kernel=st.integers(1, 3) | st.just(MAX_KERNEL),
    stride=st.integers(1, 3) | st.just(MAX_KERNEL),
    w_in=SIDES,
    h_in=SIDES,
    pad=st.integers(0, MAX_KERNEL),
    top=st.integers(-MAX_KERNEL, 6) | st.just(MAX_SIDE),
)
@example(seed=0, kernel=15, stride=1, w_in=1024, h_in=1024, pad=15, top=-15)
@settings(max_examples=30, deadline=None)
def test_any_geometry(walker, descriptor, seed, kernel, stride, w_in, h_in, pad, top):
    """Row, column and linear pixel of x at tap 0, and which taps lie inside."""
    rng, dut, columns = random.Random(seed), walker.dut, walker.machine.columns
    w_out = rng.choice([max(1, (w_in + 2 * pad - kernel) // stride + 1), rng.randint(1, 9)])
    w_out = min(w_out, MAX_SIDE)
    fields = descriptor(
        walker.machine,
        kernel=kernel,
        stride=stride,
        w_in=w_in,
        h_in=h_in,
        w_out=w_out,
        row0=top,
        column0=-pad,
        linear0=top * w_in - pad,
        step_columns=columns % w_out,
        step_column=stride * (columns % w_out),
        step_row=stride * (columns // w_out),
        step_linear=stride * (columns // w_out) * w_in + stride * (columns % w_out),
        wrap_column=stride * w_out,
        wrap_linear=stride * (w_in - w_out),
    )

    async def script(ctx):
        ctx.set(dut.config, fields)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        pixel = 0
        for _ in range(20):
            line, out = divmod(pixel, w_out)
            row, column = top + stride * line, stride * out - pad
            if row > MAX_SIDE + 2 * MAX_KERNEL:
                break  # far below any x
            got = ctx.get(dut.position)
            assert (got.out, got.row, got.column) == (out, row, column)
            assert got.linear == row * w_in + column
            corners = [(0, 0), (kernel - 1, kernel - 1)]
            anywhere = [(rng.randrange(kernel), rng.randrange(kernel)) for _ in range(2)]
            for tap_row, tap_column in corners + anywhere:
                ctx.set(dut.tap_row, tap_row)
                ctx.set(dut.tap_column, tap_column)
                there = 0 <= row + tap_row < h_in and 0 <= column + tap_column < w_in
                assert ctx.get(dut.inside) == there
            batch = rng.getrandbits(1)
            ctx.set(dut.batch, batch)
            pixel += columns if batch else 1
            await ctx.tick()

    walker(script)
