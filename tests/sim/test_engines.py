"""The stepped engine against the fast one, to the cycle of every step, and against hand counts."""

import ast
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import sinai.sim
from sinai.common.contract import CONTRACT, STALL_CAUSES, Contract
from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.sim import simulate
from sinai.sim.engine import simulate_layer
from sinai.sim.stepped import step_layer
from sinai.traces.schema import bundled, load

U, S = PRESETS["unstructured-small"], PRESETS["structured-small"]
#: Latencies that differ from the published ones.
OTHER = Contract(
    descriptor=7, sram_read=2, requantise=1, rank=5, compare=3, rpu=6, merge=2, load=5, store=1
)
DENSE = Scheme.parse("dense")
REGULAR = ["dense", "unstructured:0.5", *(f"structured:{q}:8" for q in (0, 3, 6, 7, 8))]
DENSITIES = st.sampled_from([0, 0.02, 0.1, 0.5, 0.9, 1])


def same(one, other):
    """Everything is equal: cycles, causes, slots, steps, counts. What is zero need not be named."""

    def plain(run):
        named = {
            name: {key: value for key, value in getattr(run, name).items() if value}
            for name in ("counts", "slots")
        }
        return replace(run, **named, spans=())

    assert plain(one) == plain(other)


def both(layer, machine, scheme, density, seed, contract=CONTRACT, batch=1):
    try:
        program = compile_layer(layer, machine, Scheme.parse(scheme), batch)
    except InputError:
        assume(False)  # a memory is too small
    mask = None
    if scheme.startswith("unstructured"):
        mask = np.random.default_rng(seed).random((batch, layer.pixels, layer.c_out)) < density
    run = simulate_layer(program, mask, contract)
    same(run, step_layer(program, mask, contract))
    assert run.cycles == run.busy + sum(run.stalls.values())
    return program


DRAWN = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
DMA = st.sampled_from(
    [
        [],
        [],
        *([f"dma.capacity_kib={c}", f"dma.bytes_per_cycle={b}"] for c in (16, 48) for b in (1, 64)),
    ]
)
BATCHES = st.sampled_from([1, 1, 2, 3, 4, 6])
TILES = st.sampled_from([[], ["rpu.elements=16", "rpu.rows=4"], ["rpu.elements=256"]])


@given(data=st.data())
@DRAWN
def test_engines_agree_on_the_structured_machine(layers, data):
    draw = data.draw
    changes = [
        f"columns={draw(st.sampled_from([1, 2, 8]))}",
        f"weight_words={draw(st.sampled_from([1, 2, 4]))}",
        f"collector={draw(st.sampled_from([1, 4]))}",
        f"rpu.hold={draw(st.sampled_from([1, 3, 8]))}",
        f"memories.p.capacity_kib={draw(st.sampled_from([1, 2, 16]))}",
        "memories.p.macro_kib=1",
        *draw(TILES),
        *draw(DMA),
    ]
    both(
        draw(layers()),
        override(S, changes),
        draw(st.sampled_from(REGULAR)),
        draw(DENSITIES),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([CONTRACT, OTHER])),
        draw(BATCHES),
    )


@given(data=st.data())
@DRAWN
def test_engines_agree_on_the_unstructured_machine(layers, data):
    draw = data.draw
    changes = [
        f"window={draw(st.sampled_from([1, 2, 4, 16]))}",
        f"lanes={draw(st.sampled_from([2, 4]))}",
        f"rpu.hold={draw(st.sampled_from([1, 3, 8]))}",
        f"memories.p.capacity_kib={draw(st.sampled_from([1, 2, 16]))}",
        "memories.p.macro_kib=1",
        *draw(TILES),
        *draw(DMA),
    ]
    both(
        draw(layers()),
        override(U, changes),
        draw(st.sampled_from(REGULAR[:2])),
        draw(DENSITIES),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([CONTRACT, OTHER])),
        draw(BATCHES),
    )


@pytest.mark.parametrize("name", ["unstructured", "structured", "structured-expanded"])
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_engines_agree_on_published_machines(name, layers, data):
    draw, machine = data.draw, PRESETS[name]
    schemes = REGULAR[:2] if machine.unstructured else REGULAR
    layer = draw(layers(side=12, channels=160, depth=70))
    masks = draw(DENSITIES), draw(st.integers(0, 99))
    both(layer, machine, draw(st.sampled_from(schemes)), *masks, batch=draw(BATCHES))


@pytest.mark.parametrize(
    ("machine", "k", "hold", "scheme"),
    [(U, 150, 4, "unstructured:0.9"), (S, 200, 3, "structured:7:8")],
    ids=["unstructured", "structured"],
)
def test_engines_agree_where_p_has_no_room(layer_of, machine, k, hold, scheme, monkeypatch):
    """Groups of pixels cross from one block to the next, so the projection unit waits for room; it
    would be done earlier with more."""
    layer = layer_of(c_in=4, k=k, h_in=9, w_in=9)
    changes = ["memories.p.capacity_kib=1", "memories.p.macro_kib=1", f"rpu.hold={hold}"]
    small = override(machine, [*changes, "rpu.elements=64", "rpu.rows=4"])
    program = both(layer, small, scheme, 0.1, 0)
    mask = np.random.default_rng(0).random((layer.pixels, layer.c_out)) < 0.1
    mask = mask if machine is U else None
    waited = step_layer(program, mask, CONTRACT)
    monkeypatch.setattr("sinai.sim.stepped_projection.p_room", lambda *_: layer.pixels)
    assert step_layer(program, mask, CONTRACT).cycles < waited.cycles


@pytest.mark.parametrize("scheme", ["dense", "unstructured:0.5"])
@pytest.mark.parametrize("projection", ["patch", "tap"])
@pytest.mark.parametrize("bytes_per_cycle", [1, 4, 64])
@pytest.mark.parametrize("machine", [U, S], ids=["unstructured", "structured"])
def test_engines_agree_on_streamed_parts(layer_of, machine, bytes_per_cycle, projection, scheme):
    """Several parts, bound by their transfers and not."""
    layer = layer_of(c_out=64, c_in=16, k=72, projection=projection, joined="j", residual=True)
    changes = ["dma.capacity_kib=16", f"dma.bytes_per_cycle={bytes_per_cycle}"]
    program = both(layer, override(machine, changes), scheme, 0.5, 1)
    assert len(program.parts) > 2


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("changes", [[], ["dma.capacity_kib=16", "dma.bytes_per_cycle=4"]])
@pytest.mark.parametrize(("machine", "scheme"), [(U, "unstructured:0.5"), (S, "structured:7:8")])
def test_engines_agree_on_batches(layer_of, machine, scheme, changes, batch):
    """A layer of several parts, an image after the other or stacked; the masks of the images
    differ, and so do their cycles."""
    layer = layer_of(c_out=64, c_in=16, k=72, joined="j", residual=True)
    program = both(layer, override(machine, changes), scheme, 0.5, 1, batch=batch)
    assert (program.images, {part.image for part in program.parts}) == (
        batch,
        set(range(batch // program.together)),
    )
    if machine is S and not changes:
        assert program.together == batch
    else:
        assert len(program.parts) > 1


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("resnet18-unstructured-0.9", "unstructured"),
        ("resnet18-unstructured-0.9", "structured"),
        ("resnet18-structured-7-8", "structured"),
    ],
)
def test_engines_agree_on_an_image(name, machine):
    """Real masks, step by step; `make engines` does so for every image of every trace."""
    trace = load(bundled()[name])
    fast, stepped = (
        simulate(trace, PRESETS[machine], images=[3], engine=engine)
        for engine in ("fast", "stepped")
    )
    assert fast.layers.equals(stepped.layers)
    assert fast.counts.equals(stepped.counts)
    assert fast.steps == stepped.steps
    assert all(fast.steps)
    assert (fast.engine, stepped.engine) == ("fast", "stepped")


def test_dense_structured_by_hand(layer_of):
    """16 pixels in 8 batches of 2, R / 8 = 1 batch a block: 8 tiles, 18 beats of 8 cycles each."""
    run = step_layer(compile_layer(layer_of(), S, DENSE), None, CONTRACT)
    fill = CONTRACT.launch(2) + 8
    assert run.stalls == dict.fromkeys(STALL_CAUSES, 0) | {
        "fill": fill,
        "drain": CONTRACT.drain - 1,
    }
    assert [tuple(step) for step in run.steps] == [
        ("E", n, fill + 144 * n, fill + 144 * n + 143) for n in range(8)
    ]
    assert run.counts["mvu.mac16"] == 16 * 16 * 18 * 4  # pixels, channels, beats, PSEs


def test_dense_unstructured_by_hand(layer_of):
    """A pass of 8 pairs a lane is found in 8 cycles, its first two x words are there 2 later."""
    run = step_layer(compile_layer(layer_of(), U, DENSE), None, CONTRACT)
    begin = CONTRACT.launch(1)
    waits = {"fill": begin, "scan": 8, "xbank": 2, "drain": CONTRACT.drain - 1}
    assert run.stalls == dict.fromkeys(STALL_CAUSES, 0) | waits
    assert (run.steps[0].first, run.steps[-1].last) == (begin + 10, begin + 9 + 18 * 8 * 8)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("small")])
@pytest.mark.parametrize("changes", [[], ["dma.capacity_kib=16", "dma.bytes_per_cycle=2"]])
def test_spans_say_what_the_ledger_says(layer_of, name, changes):
    """Stalls of each cause add up, steps begin with their first issue, and no row has two spans at
    once; nothing is recorded unless asked for."""
    machine = override(PRESETS[name], changes)
    layer = layer_of(c_out=64, c_in=16, k=72)
    program = compile_layer(layer, machine, Scheme.parse("unstructured:0.5"))
    mask = np.random.default_rng(1).random((layer.pixels, layer.c_out)) < 0.3
    run = step_layer(program, mask, CONTRACT, record=True)
    assert step_layer(program, mask, CONTRACT) == replace(run, spans=())
    rows = {}
    for span in sorted(run.spans, key=lambda span: span.begin):
        rows.setdefault(span.row, []).append(span)
    for spans in rows.values():
        assert all(span.begin < span.end <= run.cycles for span in spans)
        assert all(one.end <= two.begin for one, two in pairwise(spans))
    for cause in STALL_CAUSES:
        found = [span.end - span.begin for span in rows["stalls"] if span.name == cause]
        assert sum(found) == run.stalls[cause]
    for phase in "AE":
        steps = [step for step in run.steps if step.phase == phase]
        assert [span.name for span in rows[phase]] == [f"{phase}{step.tile}" for step in steps]
        if machine.resident:
            assert [span.begin for span in rows[phase]] == [step.first for step in steps]
    assert {"A", "E", "stalls", "weights", "gather", "projection"} <= rows.keys()
    lanes = [rows[f"lane {lane}"] for lane in range(machine.lanes)]
    assert f"lane {machine.lanes}" not in rows
    if machine.unstructured:
        # A pass is as long as its fullest lane is busy, all waits in it apart.
        shares = [[span for span in lane if span.name != "A"] for lane in lanes]
        own = [int(span.name.split()[2]) for lane in shares for span in lane]
        assert sum(own) == run.essential
        fullest = {span.begin: int(span.name.split()[4]) for lane in shares for span in lane}
        issues = sum(fullest.values()) * program.beats
        assert issues == run.busy - run.busy_approximate
    else:
        assert all({span.name for span in lane} == {"A", "E"} for lane in lanes)
    assert ("transfers" in rows) == ("parts" in rows) == (not machine.resident)
    assert {"window", "scanner"} <= rows.keys() or not machine.unstructured


def test_the_stepped_engine_knows_no_recurrence():
    """It imports nothing of the fast engine."""
    fast = {"engine", "projection", "scanner", "stream", "structured", "transfers", "unstructured"}
    paths = sorted(Path(sinai.sim.__file__).parent.glob("stepped*.py"))
    assert len(paths) > 5
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert node.module not in fast | {"vector_unit", "work"}, path.name


def test_what_an_engine_cannot_give_is_refused():
    trace = load(bundled()["resnet18-unstructured-0.9"])
    machine = PRESETS["unstructured"]
    with pytest.raises(InputError, match="engine must be fast or stepped, not 'slow'"):
        simulate(trace, machine, engine="slow")
    with pytest.raises(InputError, match="a timeline comes from engine stepped"):
        simulate(trace, machine, timeline=True)
    with pytest.raises(InputError, match="the ideal bound has no timeline"):
        simulate(trace, machine, engine="stepped", timeline=True, ideal=True)
