"""Layers on both machines: cycles by hand, and what must hold for every layer and mask."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sinai.common.contract import CONTRACT
from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.sim.counts import EVENTS
from sinai.sim.engine import simulate_layer

U, S = PRESETS["unstructured-small"], PRESETS["structured-small"]
DENSE = Scheme.parse("dense")


def layer(**changes):
    base = dict(
        name="l", c_in=8, c_out=16, kernel=3, stride=1, padding=1, h_in=4, w_in=4, k=64,
        projection_nonzeros=100,
    )  # fmt: skip
    return Layer(**(base | changes))


@st.composite
def layers(draw):
    kernel = draw(st.sampled_from([1, 3, 7]))
    projection = draw(st.sampled_from(["patch", "tap"]))
    c_in = draw(st.integers(1, 20))
    taps = kernel**2
    k = draw(st.integers(1, 4)) * 4 * taps if projection == "tap" else draw(st.integers(1, 200))
    return layer(
        c_in=c_in,
        c_out=draw(st.integers(1, 40)),
        kernel=kernel,
        stride=draw(st.sampled_from([1, 2])),
        padding=draw(st.sampled_from([0, kernel // 2])),
        h_in=draw(st.integers(kernel, 9)),
        w_in=draw(st.integers(kernel, 9)),
        k=k,
        projection=projection,
        residual=draw(st.booleans()),
        joined=draw(st.sampled_from(["", "stage"])),
    )


def test_dense_structured_by_hand():
    """16 pixels in 8 batches of 2, R / 8 = 1 batch a block: 8 tiles, 18 beats of 8 cycles each.

    Every beat loads 8 words in 8 cycles behind the beat before, so only the first load shows.
    """
    run = simulate_layer(compile_layer(layer(), S, DENSE), None, CONTRACT)
    assert run.busy == 8 * 18 * 8
    fill = CONTRACT.descriptor + CONTRACT.feed + 8
    assert run.stalls["fill"] == fill
    assert run.stalls["drain"] == CONTRACT.drain
    assert run.cycles == run.busy + fill + CONTRACT.drain
    assert run.slots["useful"] == 16 * 16 * 18  # pixels, channels, beats
    assert run.counts["mvu.mac16"] == 16 * 16 * 18 * 4
    assert run.counts["weights.read"] == 8 * 16 * 18  # every tile reads every channel


def test_dense_unstructured_by_hand():
    """16 channels on 4 lanes are 4 rows; a window of 2 pixels is one pass of 8 pairs a lane.

    18 beats x 8 windows x 8 issues; a pass leaves 32 outputs in the one sub-bank, which drain in
    less than the 17 beats until the next pass ends.
    """
    run = simulate_layer(compile_layer(layer(), U, DENSE), None, CONTRACT)
    assert run.busy == 18 * 8 * 8
    assert run.counts["weights.read"] == 8 * 18 * 16  # 16 distinct rows a window and beat
    assert run.counts["x.read"] == 16 * 18
    assert run.stalls["writeback"] == 0
    # The last 32 outputs leave one a cycle; 8 of those cycles pass under the last beat.
    assert run.stalls["drain"] == 32 - 8 + CONTRACT.drain


def test_shallow_block_waits_for_its_weights():
    """7:8 on 2x2 pixels: a block of 2 batches computes 2 cycles a beat and loads 8."""
    small = layer(h_in=2, w_in=2)
    run = simulate_layer(compile_layer(small, S, Scheme.parse("structured:7:8")), None, CONTRACT)
    assert run.busy - run.busy_approximate == 18 * 2
    assert run.stalls["shallow"] >= 17 * (8 - 2)


def test_output_fifo_holds_up_short_dot_products():
    """A 1x1 layer of one beat makes an output an issue; four lanes share one sub-bank port."""
    short = layer(c_in=4, kernel=1, padding=0, k=4)
    run = simulate_layer(compile_layer(short, U, DENSE), None, CONTRACT)
    assert run.busy == 8 * 8
    # From the second pass on, each waits until the 32 outputs before it have left.
    assert run.stalls["writeback"] == 7 * (32 - 8)


@pytest.mark.parametrize("machine", [U, S], ids=["unstructured", "structured"])
@given(shape=layers(), share=st.sampled_from([0, 0.1, 0.5, 1]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_invariants(machine, shape, share, seed):
    """Cycles = busy + stalls; slots = VPUs x busy; MACs = essential x beats x words; every output
    is requantised once by each path that computes it."""
    mask = np.random.default_rng(seed).random((shape.pixels, shape.c_out)) < share
    program = compile_layer(shape, machine, Scheme.parse("unstructured:0.5"))
    run = simulate_layer(program, mask, CONTRACT)
    assert run.cycles == run.busy + sum(run.stalls.values())
    assert machine.vpus * run.busy == sum(run.slots.values())
    assert min(run.slots.values()) >= 0
    assert min(run.stalls.values()) >= 0
    assert run.essential == mask.sum()
    exact = int(mask.sum()) * program.beats
    rough = shape.neurons * program.approximate_beats
    assert run.slots["useful"] == exact + rough
    assert run.counts.get("mvu.mac16", 0) == exact * machine.pses
    assert run.counts["mvu.mac4"] == rough * 16 * machine.pses
    assert run.counts["post.requantise"] == shape.neurons + mask.sum()
    assert run.counts["p.write"] == shape.pixels * program.approximate_beats
    assert set(run.counts) <= set(EVENTS)


@pytest.mark.parametrize("scheme", [f"structured:{q}:8" for q in range(9)])
@given(shape=layers())
@settings(max_examples=20, deadline=None)
def test_structured_needs_no_mask(scheme, shape):
    """The cycles of q:8 follow from the geometry; so do those of any mask of that form."""
    program = compile_layer(shape, S, Scheme.parse(scheme))
    keep = program.scheme.essential_of_group
    rng = np.random.default_rng(0)
    mask = np.zeros((shape.pixels, shape.c_out), dtype=bool)
    for first in range(0, shape.c_out, 8):
        width = min(8, shape.c_out - first)
        order = rng.random((shape.pixels, width)).argsort(1)
        mask[:, first : first + width] = order < keep
    bare = simulate_layer(program, None, CONTRACT)
    assert simulate_layer(program, mask, CONTRACT) == bare
    assert bare.cycles == bare.busy + sum(bare.stalls.values())
    assert bare.slots["idle_imbalance"] == 0


@pytest.mark.parametrize("machine", [U, S], ids=["unstructured", "structured"])
def test_full_mask_issues_what_dense_issues(machine):
    """The exact pass of a full mask takes the issue cycles of dense."""
    shape = layer()
    full = np.ones((shape.pixels, shape.c_out), dtype=bool)
    program = compile_layer(shape, machine, Scheme.parse("unstructured:0"))
    run = simulate_layer(program, full, CONTRACT)
    dense = simulate_layer(compile_layer(shape, machine, DENSE), None, CONTRACT)
    assert run.busy - run.busy_approximate == dense.busy


def test_empty_mask_leaves_the_approximate_pass_alone():
    shape = layer()
    empty = np.zeros((shape.pixels, shape.c_out), dtype=bool)
    for machine in (U, S):
        program = compile_layer(shape, machine, Scheme.parse("unstructured:1"))
        run = simulate_layer(program, empty, CONTRACT)
        assert run.busy == run.busy_approximate
        assert run.counts.get("x.read", 0) == 0


@pytest.mark.parametrize("scheme", ["dense", "unstructured:0.5", "structured:6:8"])
@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_streaming_costs_cycles_and_bandwidth_saves_them(scheme, projection):
    """One program, wider and wider DMA: never more cycles, and never fewer than without DMA."""
    scheme = Scheme.parse(scheme)
    machine = override(S, ["dma.capacity_kib=16"])
    shape = layer(c_out=64, c_in=16, k=72, projection=projection)
    mask = np.random.default_rng(1).random((shape.pixels, shape.c_out)) < 0.5
    mask = mask if scheme.kind == "unstructured" else None
    program = compile_layer(shape, machine, scheme)
    assert len(program.parts) > 1
    cycles = []
    for width in (1, 2, 4, 16, 64, 4096):
        wider = replace(program, machine=override(machine, [f"dma.bytes_per_cycle={width}"]))
        run = simulate_layer(wider, mask, CONTRACT)
        assert run.cycles == run.busy + sum(run.stalls.values())
        cycles.append(run.cycles)
    assert cycles == sorted(cycles, reverse=True)
    # Everything crosses the border at one byte a cycle.
    assert cycles[0] >= sum(part.load_bytes + part.store_bytes for part in program.parts)


@pytest.mark.parametrize("bytes_per_cycle", [1, 7, 64])
@pytest.mark.parametrize("machine", [U, S], ids=["unstructured", "structured"])
@given(shape=layers(), capacity=st.integers(8, 64))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_parts_cover_the_layer_once(machine, shape, capacity, bytes_per_cycle):
    """With any capacity that holds a part at all, each neuron lies in exactly one tile."""
    machine = override(
        machine, [f"dma.capacity_kib={capacity}", f"dma.bytes_per_cycle={bytes_per_cycle}"]
    )
    try:
        program = compile_layer(shape, machine, Scheme.parse("unstructured:0.5"))
    except InputError:
        assume(False)  # too small for a single part
    seen = np.zeros((shape.pixels, shape.c_out), dtype=int)
    for tile in program.tiles:
        seen[
            tile.pixel : tile.pixel + tile.pixels, tile.channel : tile.channel + tile.channels
        ] += 1
    assert (seen == 1).all()
    mask = np.random.default_rng(2).random(seen.shape) < 0.5
    run = simulate_layer(program, mask, CONTRACT)
    assert run.cycles == run.busy + sum(run.stalls.values())
    assert run.essential == mask.sum()


def test_more_weight_words_or_columns_never_cost_cycles():
    shape = layer(c_out=64, h_in=8, w_in=8)
    scheme = Scheme.parse("structured:7:8")
    for key, values in (("weight_words", (1, 2, 4, 8)), ("columns", (1, 2, 4))):
        cycles = [
            simulate_layer(
                compile_layer(shape, override(S, [f"{key}={value}"]), scheme), None, CONTRACT
            ).cycles
            for value in values
        ]
        assert cycles == sorted(cycles, reverse=True), key


def test_layer_that_does_not_fit_is_refused():
    big = layer(c_in=512, c_out=2048, k=64)
    with pytest.raises(
        InputError, match=r"layer l needs \d+ KiB of the weights memory, which holds"
    ):
        compile_layer(big, S, DENSE)
    with pytest.raises(InputError, match=r"dma\.capacity_kib = 1 does not hold the smallest part"):
        compile_layer(big, override(S, ["dma.capacity_kib=1"]), DENSE)


def test_threshold_machine_refuses_structured_noise():
    with pytest.raises(InputError, match="structured:7:8 needs a structured machine"):
        compile_layer(layer(), U, Scheme.parse("structured:7:8"))
    with pytest.raises(InputError, match="ranks groups of 8, not 4"):
        compile_layer(layer(), S, Scheme.parse("structured:2:4"))
