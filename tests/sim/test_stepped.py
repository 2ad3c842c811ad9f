"""Whole parts by recurrences against the machines of conftest, stepped one cycle at a time."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sinai.common.contract import CONTRACT, Contract
from sinai.common.descriptor import memory_depth
from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.sim.engine import steps_of
from sinai.sim.structured import StructuredUnit
from sinai.sim.unstructured import UnstructuredUnit

U, S = PRESETS["unstructured-small"], PRESETS["structured-small"]
#: Latencies that differ from the published ones.
OTHER = Contract(descriptor=7, sram_read=2, requantise=1, rank=5, compare=3, rpu=6, merge=2)

SCHEMES = ["dense", "unstructured:0.5", *(f"structured:{q}:8" for q in (0, 3, 7, 8))]


def compare(stepped, layer, machine, scheme, density, seed, contract):
    """Cycles, causes and the issue cycles of every step of every part are equal."""
    try:
        program = compile_layer(layer, machine, Scheme.parse(scheme))
    except InputError:
        assume(False)  # a memory is too small
    mask = None
    if scheme.startswith("unstructured"):
        mask = np.random.default_rng(seed).random((layer.pixels, layer.c_out)) < density
    kind = UnstructuredUnit if machine.unstructured else StructuredUnit
    room = memory_depth(machine, "p") // program.approximate_beats * machine.columns
    for part in range(len(program.parts)):
        unit = kind(program, part, mask, contract)
        unit.run(steps_of(program, part))
        expected = stepped(program, part, mask, contract, room)
        assert [tuple(step) for step in unit.steps] == expected.steps
        assert (unit.clock.now, unit.clock.busy) == (expected.cycles, expected.busy)
        assert unit.clock.stalls == expected.stalls


DRAWN = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@given(data=st.data())
@DRAWN
def test_structured_part_equals_stepping(stepped, layers, data):
    draw = data.draw
    changes = [
        f"columns={draw(st.sampled_from([1, 2, 4]))}",
        f"weight_words={draw(st.sampled_from([1, 2, 8]))}",
        f"collector={draw(st.sampled_from([1, 4]))}",
        f"rpu.hold={draw(st.sampled_from([1, 3, 4]))}",
        f"rpu.elements={draw(st.sampled_from([16, 64, 256]))}",
        f"rpu.rows={draw(st.sampled_from([4, 16]))}",
        f"memories.p.capacity_kib={draw(st.sampled_from([1, 2, 16]))}",
        "memories.p.macro_kib=1",
        f"dma.capacity_kib={draw(st.sampled_from(['null', 'null', 24]))}",
    ]
    compare(
        stepped,
        draw(layers()),
        override(S, changes),
        draw(st.sampled_from(SCHEMES)),
        draw(st.sampled_from([0, 0.02, 0.1, 0.5, 1])),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([CONTRACT, OTHER])),
    )


@given(data=st.data())
@DRAWN
def test_unstructured_part_equals_stepping(stepped, layers, data):
    draw = data.draw
    changes = [
        f"window={draw(st.sampled_from([1, 2, 4, 16]))}",
        f"lanes={draw(st.sampled_from([2, 4]))}",
        f"rpu.hold={draw(st.sampled_from([1, 3, 4]))}",
        f"rpu.elements={draw(st.sampled_from([16, 64, 256]))}",
        f"rpu.rows={draw(st.sampled_from([4, 16]))}",
        f"memories.p.capacity_kib={draw(st.sampled_from([1, 2, 16]))}",
        f"dma.capacity_kib={draw(st.sampled_from(['null', 'null', 24]))}",
        "memories.p.macro_kib=1",
    ]
    compare(
        stepped,
        draw(layers()),
        override(U, changes),
        draw(st.sampled_from(SCHEMES[:2])),
        draw(st.sampled_from([0, 0.02, 0.1, 0.5, 0.9, 1])),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([CONTRACT, OTHER])),
    )


@pytest.mark.parametrize("projection", ["patch", "tap"])
@pytest.mark.parametrize("elements", [16, 64, 128])
def test_tiles_of_the_projection_equal_stepping(stepped, layer_of, projection, elements):
    """Several element tiles, a single tile, gathering slower and faster than the adders."""
    for c_in, k in ((4, 36), (33, 36), (20, 180), (64, 9 * 36)):
        layer = layer_of(c_in=c_in, k=k, h_in=5, w_in=7, projection=projection)
        machine = override(
            S, [f"rpu.elements={elements}", "rpu.rows=8", "rpu.depth=512", "rpu.port_bits=32"]
        )
        compare(stepped, layer, machine, "structured:6:8", 0, 0, CONTRACT)
