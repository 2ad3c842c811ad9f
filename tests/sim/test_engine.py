"""Layers on both machines: cycles by hand, and what must hold for every layer and mask."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sinai.common.contract import CONTRACT, Contract
from sinai.common.descriptor import transfer_cycles, transfer_row_bits
from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, override
from sinai.common.order import order
from sinai.common.program import compile_layer
from sinai.common.rules import fetch_cycles
from sinai.common.scheme import Scheme
from sinai.sim.counts import EVENTS
from sinai.sim.engine import simulate_layer
from sinai.sim.transfers import run_queues

U, S = PRESETS["unstructured-small"], PRESETS["structured-small"]
DENSE = Scheme.parse("dense")


def test_dense_structured_by_hand(layer_of):
    """16 pixels in 8 batches of 2, R / 8 = 1 batch a block: 8 tiles, 18 beats of 8 cycles each.

    Every beat loads 8 words in 8 cycles behind the beat before, so only the first load shows.
    """
    run = simulate_layer(compile_layer(layer_of(), S, DENSE), None, CONTRACT)
    assert run.busy == 8 * 18 * 8
    fill = CONTRACT.launch(2) + 8
    assert run.stalls["fill"] == fill
    # From the last issue to the last write; the cycle of the issue itself is busy.
    assert run.stalls["drain"] == CONTRACT.drain - 1
    assert run.cycles == run.busy + fill + CONTRACT.drain - 1
    assert run.slots["useful"] == 16 * 16 * 18  # pixels, channels, beats
    assert run.counts["mvu.mac16"] == 16 * 16 * 18 * 4
    assert run.counts["weights.read"] == 8 * 16 * 18  # every tile reads every channel
    assert run.counts["y.write"] == 16 * 16
    assert run.counts["y.read"] == 16 * 16  # stored once, no y^Q for a dense layer
    # Steps follow each other without a gap.
    assert [(step.first, step.last) for step in run.steps] == [
        (fill + 144 * n, fill + 144 * n + 143) for n in range(8)
    ]


def test_dense_unstructured_by_hand(layer_of):
    """16 channels on 4 lanes are 4 rows; a window of 2 pixels is one pass of 8 pairs a lane.

    The scanner takes a pair a cycle, so the first pass is there after 8 cycles and its first two x
    words after 10; after that 18 beats x 8 issues a window hide everything.
    """
    run = simulate_layer(compile_layer(layer_of(), U, DENSE), None, CONTRACT)
    assert run.busy == 18 * 8 * 8
    assert run.counts["weights.read"] == 8 * 18 * 16  # 16 distinct rows a window and beat
    assert run.counts["x.read"] == 16 * 18
    assert run.counts["pairs.write"] == run.counts["select.scan"] == 16 * 16
    waits = {cause: cycles for cause, cycles in run.stalls.items() if cycles}
    begin = CONTRACT.launch(1)
    assert waits == {"fill": begin, "scan": 8, "xbank": 2, "drain": CONTRACT.drain - 1}
    assert (run.steps[0].first, run.steps[-1].last) == (begin + 10, begin + 9 + run.busy)


def test_shallow_block_waits_for_its_weights(layer_of):
    """7:8 on 2x2 pixels: a block of 2 batches computes 2 cycles a beat and loads 8."""
    small = layer_of(h_in=2, w_in=2)
    run = simulate_layer(compile_layer(small, S, Scheme.parse("structured:7:8")), None, CONTRACT)
    assert run.busy - run.busy_approximate == 18 * 2
    assert run.stalls["shallow"] >= 17 * (8 - 2)


def test_an_empty_batch_takes_a_cycle_a_beat(layer_of):
    """No essential channel in 8 of 16 pixels: their batches read nothing and pass in one cycle."""
    shape = layer_of(k=16)
    mask = np.zeros((16, 16), dtype=bool)
    mask[:8, 0] = True
    run = simulate_layer(compile_layer(shape, S, Scheme.parse("unstructured:0.9")), mask, CONTRACT)
    assert run.busy - run.busy_approximate == 18 * 4
    assert run.stalls["scan"] == 18 * 4
    assert run.counts["masks.read"] == 18 * 8
    assert run.counts["masks.write"] == 8


def test_window_of_many_pixels_waits_for_its_words(layer_of):
    """One pair in each of two pixels, both of channel 0: two x words a beat for two issues, so from
    the second beat on the words are hidden; in two lanes, one issue waits for two words."""
    shape = layer_of(h_in=1, w_in=2, k=16)
    program = compile_layer(shape, U, Scheme.parse("unstructured:0.9"))
    one_lane, two_lanes = np.zeros((2, 2, 16), dtype=bool)
    one_lane[:, 0] = True
    two_lanes[0, 0] = two_lanes[1, 1] = True
    same = simulate_layer(program, one_lane, CONTRACT)
    apart = simulate_layer(program, two_lanes, CONTRACT)
    assert same.stalls["xbank"] == 2
    assert apart.stalls["xbank"] == 2 + 17


@pytest.mark.parametrize("machine", [U, S], ids=["unstructured", "structured"])
@given(data=st.data(), share=st.sampled_from([0, 0.1, 0.5, 1]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_invariants(machine, layers, data, share, seed):
    """Cycles = busy + stalls; slots = VPUs x busy; MACs = essential x beats x words; every output
    is requantised once by each path that computes it."""
    shape = data.draw(layers())
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
    assert run.counts["y.write"] == shape.neurons + mask.sum()
    assert (
        machine.unstructured
        or run.counts["masks.read"] == program.beats * run.counts["masks.write"]
    )
    assert set(run.counts) <= set(EVENTS)


@pytest.mark.parametrize("scheme", [f"structured:{q}:8" for q in range(9)])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_structured_needs_no_mask(scheme, layers, data):
    """The cycles of q:8 follow from the geometry; so do those of any mask of that form."""
    shape = data.draw(layers())
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
def test_full_mask_issues_what_dense_issues(machine, layer_of):
    """The exact pass of a full mask takes the issue cycles of dense."""
    shape = layer_of()
    full = np.ones((shape.pixels, shape.c_out), dtype=bool)
    program = compile_layer(shape, machine, Scheme.parse("unstructured:0"))
    run = simulate_layer(program, full, CONTRACT)
    dense = simulate_layer(compile_layer(shape, machine, DENSE), None, CONTRACT)
    assert run.busy - run.busy_approximate == dense.busy


def test_empty_mask_leaves_the_approximate_pass_alone(layer_of):
    shape = layer_of()
    empty = np.zeros((shape.pixels, shape.c_out), dtype=bool)
    for machine in (U, S):
        program = compile_layer(shape, machine, Scheme.parse("unstructured:1"))
        run = simulate_layer(program, empty, CONTRACT)
        assert run.busy == run.busy_approximate
        assert run.counts.get("x.read", 0) == 0


@pytest.mark.parametrize("scheme", ["dense", "unstructured:0.5", "structured:6:8"])
@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_streaming_costs_cycles_and_bandwidth_saves_them(scheme, projection, layer_of):
    """One program, wider and wider DMA: never more cycles, and never fewer than without DMA."""
    scheme = Scheme.parse(scheme)
    machine = override(S, ["dma.capacity_kib=16"])
    shape = layer_of(c_out=64, c_in=16, k=72, projection=projection)
    mask = np.random.default_rng(1).random((shape.pixels, shape.c_out)) < 0.5
    mask = mask if scheme.kind == "unstructured" else None
    program = compile_layer(shape, machine, scheme)
    assert len(program.parts) > 1
    cycles = []
    for width in (1, 2, 4, 16, 64, 1024):
        wider = replace(program, machine=override(machine, [f"dma.bytes_per_cycle={width}"]))
        run = simulate_layer(wider, mask, CONTRACT)
        assert run.cycles == run.busy + sum(run.stalls.values())
        assert run.stalls["dma"] > 0
        cycles.append(run.cycles)
    assert cycles == sorted(cycles, reverse=True)
    # Everything crosses the border at one byte a cycle.
    moves = [move for part in program.parts for move in (*part.place.loads, *part.place.stores)]
    bits = sum(move.rows * transfer_row_bits(machine, move.target) for move in moves)
    assert cycles[0] >= bits / 8


@pytest.mark.parametrize("bytes_per_cycle", [1, 8, 64])
@pytest.mark.parametrize("machine", [U, S], ids=["unstructured", "structured"])
@given(data=st.data(), capacity=st.integers(8, 64))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_parts_cover_the_layer_once(machine, layers, data, capacity, bytes_per_cycle):
    """With any capacity that holds a part at all, each neuron lies in exactly one tile."""
    shape = data.draw(layers())
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


def test_more_weight_words_or_columns_never_cost_cycles(layer_of):
    """The launch apart, which takes a cycle for each column."""
    shape = layer_of(c_out=64, h_in=8, w_in=8)
    scheme = Scheme.parse("structured:7:8")
    for key, values in (("weight_words", (1, 2, 4, 8)), ("columns", (1, 2, 4))):
        cycles = []
        for value in values:
            machine = override(S, [f"{key}={value}"])
            run = simulate_layer(compile_layer(shape, machine, scheme), None, CONTRACT)
            cycles.append(run.cycles - CONTRACT.launch(machine.columns))
        assert cycles == sorted(cycles, reverse=True), key


def test_layer_that_does_not_fit_is_refused(layer_of):
    big = layer_of(c_in=512, c_out=2048, k=64)
    with pytest.raises(
        InputError, match=r"layer l needs \d+ KiB of the weights memory, which holds"
    ):
        compile_layer(big, S, DENSE)
    with pytest.raises(InputError, match=r"dma\.capacity_kib = 1 does not hold the smallest part"):
        compile_layer(big, override(S, ["dma.capacity_kib=1"]), DENSE)


def test_threshold_machine_refuses_structured_noise(layer_of):
    with pytest.raises(InputError, match="structured:7:8 needs a structured machine"):
        compile_layer(layer_of(), U, Scheme.parse("structured:7:8"))
    with pytest.raises(InputError, match="ranks groups of 8, not 4"):
        compile_layer(layer_of(), S, Scheme.parse("structured:2:4"))


def test_queues_by_hand(layer_of):
    """Three parts: each engine fetches, waits and works in the order L0 L1 | L2 S0 | S1 S2."""
    machine = override(S, ["dma.capacity_kib=16"])
    program = compile_layer(layer_of(c_out=64, c_in=16, k=72), machine, DENSE)
    parts = program.parts[:3]
    schedule = run_queues(machine, order(parts, 2), [1000, 2000, 10], CONTRACT)
    fetch, own = fetch_cycles(machine, "transfer"), fetch_cycles(machine, "compute")
    start, finish = CONTRACT.start, CONTRACT.finish

    def take(moves):
        return sum(fetch + transfer_cycles(machine, move.target, move.rows) for move in moves)

    first = take(parts[0].place.loads)
    launched = [max(own, first) + start]
    done = launched[0] + 1000 + finish
    second = first + take(parts[1].place.loads)
    launched.append(max(done + own, second) + start)
    # The next descriptor is fetched before its wait.
    third = max(second + fetch, done) - fetch + take(parts[2].place.loads)
    done = launched[1] + 2000 + finish
    stored = third + take(parts[0].place.stores)
    launched.append(max(done + own, stored) + start)
    stored = max(stored + fetch, done) - fetch + take(parts[1].place.stores)
    done = launched[2] + 10 + finish
    stored = max(stored + fetch, done) - fetch + take(parts[2].place.stores)
    assert (schedule.launched, schedule.ended) == (launched, stored)


@pytest.mark.parametrize("name", [field.name for field in fields(Contract)])
def test_every_entry_of_the_contract_shows(layer_of, name):
    """One more cycle in any entry changes the cycles, their causes or the steps of some run."""
    later = replace(CONTRACT, **{name: getattr(CONTRACT, name) + 1})
    if name == "scan_bits":
        later = replace(CONTRACT, scan_bits=32)
    # One tile, whose selection and scan nothing hides; 40 rows are two or three mask words.
    shape = layer_of(c_out=160, c_in=16, k=72, h_in=1, w_in=2)
    mask = np.random.default_rng(3).random((shape.pixels, shape.c_out)) < 0.01
    small = override(S, ["dma.capacity_kib=16"])
    seen = []
    for machine, scheme, essential in (
        (U, "unstructured:0.9", mask),
        (S, "structured:7:8", None),
        (small, "structured:7:8", None),
    ):
        program = compile_layer(shape, machine, Scheme.parse(scheme))
        seen.append(
            simulate_layer(program, essential, later)
            != simulate_layer(program, essential, CONTRACT)
        )
    assert any(seen)
