"""Operands, descriptors and memory images against a model of every address the hardware forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import threshold_of_top_k
from sinai.common.commands import commands
from sinai.common.errors import InputError
from sinai.common.integer import run_layer
from sinai.common.machine import PRESETS, override
from sinai.common.operands import Operands, input_stream, read_outputs
from sinai.common.program import compile_layer
from sinai.common.rules import broken
from sinai.common.scheme import Scheme

S, U = PRESETS["structured-small"], PRESETS["unstructured-small"]
MACHINES = {
    "S": S,
    "S beta 2": override(S, ["weight_words=2", "columns=4", "collector=1"]),
    "S beta 8, one lane": override(S, ["weight_words=8", "lanes=1", "dma.bytes_per_cycle=1"]),
    "S wide words": override(S, ["pses=8", "rpu.elements=128", "rpu.hold=3", "rpu.port_bits=32"]),
    "U": U,
    "U window 1": override(U, ["window=1", "lanes=2", "dma.bytes_per_cycle=128"]),
    "U window 64": override(U, ["window=64", "lanes=1", "rpu.elements=32", "rpu.port_bits=2"]),
}
SCHEMES = ["dense", "unstructured:0.6", "structured:5:8", "structured:8:8", "structured:0:8"]
PAIRS = [
    (name, scheme)
    for name, machine in MACHINES.items()
    for scheme in SCHEMES
    if not (machine.unstructured and scheme.startswith("structured"))
]


def check(model, spec, machine, scheme, rng, *, inject=False, order=None):
    """Feed a layer to the model of addresses; what leaves must be what the arithmetic says."""
    layer, scheme = spec.layer, Scheme.parse(scheme)
    x = rng.integers(-32768, 32768, (1, layer.h_in, layer.w_in, layer.c_in)).astype(np.int16)
    low, high = (0, 16) if layer.unsigned_input else (-8, 8)
    xq = rng.integers(low, high, x.shape).astype(np.int8)
    outputs = (1, layer.pixels, layer.c_out)
    residual = mask = theta = None
    if layer.residual:
        residual = rng.integers(-32768, 32768, outputs).astype(np.int16)
    if inject:
        mask = rng.random(outputs) < 0.4
    run = run_layer(spec, x, xq, residual, scheme, mask=mask)
    if scheme.kind == "unstructured":
        theta = threshold_of_top_k(run.noise, scheme.essential_count(layer.neurons))
    program = compile_layer(layer, machine, scheme)
    made = commands(
        program,
        spec,
        theta=theta,
        inject=inject,
        store_sums=bool(layer.joined),
        store_masks=not (scheme.dense or inject),
    )
    for kind, queue in (("compute", made.computes), ("transfer", made.transfers)):
        for each in queue:
            fields = each if kind == "compute" else each.fields
            assert not broken(machine, kind, fields)
    operands = Operands(
        spec=spec,
        x=x[0],
        xq=None if scheme.dense else xq[0],
        residual=None if residual is None else residual[0],
        mask=None if mask is None else mask[0],
        order=order,
    )
    stream = input_stream(made, operands)
    assert stream.size == sum(part.load_bytes for part in program.parts) + sum(
        each.move.words * machine.dma.bytes_per_cycle
        for each in made.transfers
        if each.move.target == 6
    )
    for eager in (False, True):
        done = read_outputs(made, model(machine).run(made, stream, eager), order)
        assert np.array_equal(done.y, run.y[0])
        if layer.joined:
            assert np.array_equal(done.s, run.s[0])
        if not scheme.dense:
            assert np.array_equal(done.yq, run.yq[0])
            assert inject or np.array_equal(done.mask, run.mask[0])
    return program


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
@pytest.mark.parametrize(
    "geometry",
    [
        pytest.param(
            {"c_in": 5, "c_out": 11, "kernel": 3, "stride": 1, "padding": 1, "k": 9}, id="3x3 patch"
        ),
        pytest.param(
            {"c_in": 9, "c_out": 18, "kernel": 3, "stride": 2, "padding": 1, "k": 36}
            | {"projection": "tap", "residual": True, "joined": "r"},
            id="3x3 tap stride 2",
        ),
        pytest.param(
            {"c_in": 3, "c_out": 5, "kernel": 3, "stride": 2, "padding": 0, "k": 18}
            | {"projection": "tap", "unsigned_input": False},
            id="narrow tap",
        ),
        pytest.param(
            {"c_in": 3, "c_out": 9, "kernel": 7, "stride": 2, "padding": 3, "k": 70}
            | {"unsigned_input": False, "joined": "r"},
            id="narrow 7x7",
        ),
        pytest.param(
            {"c_in": 10, "c_out": 4, "kernel": 1, "stride": 2, "padding": 0, "k": 7}
            | {"residual": True},
            id="1x1 stride 2",
        ),
    ],
)
def test_addresses_give_the_layer(address_model, integer_layer, name, scheme, geometry):
    """Every machine and scheme on layers of all kinds."""
    rng = np.random.default_rng([len(name), len(scheme), geometry["k"]])
    spec = integer_layer(rng, h_in=5, w_in=6, **geometry)
    check(address_model, spec, MACHINES[name], scheme, rng)


@pytest.mark.parametrize("name", MACHINES)
def test_injected_masks_replace_selection(address_model, integer_layer, name):
    rng = np.random.default_rng(len(name))
    spec = integer_layer(
        rng, c_in=5, c_out=19, kernel=3, stride=1, padding=1, h_in=4, w_in=5, k=6, residual=True
    )
    check(address_model, spec, MACHINES[name], "unstructured:0.5", rng, inject=True)


@pytest.mark.parametrize("window", [1, 2, 64])
def test_placement_changes_nothing_that_leaves(address_model, integer_layer, window):
    """Channels in any order on the lanes, inputs and outputs in the network's."""
    rng = np.random.default_rng(window)
    spec = integer_layer(
        rng, c_in=5, c_out=23, kernel=1, stride=1, padding=0, h_in=4, w_in=3, k=5, residual=True
    )
    order = rng.permutation(23)
    machine = override(U, [f"window={window}"])
    for inject in (False, True):
        check(address_model, spec, machine, "unstructured:0.5", rng, inject=inject, order=order)


@pytest.mark.parametrize("c_in", [3, 5])
@pytest.mark.parametrize("projection", ["patch", "tap"])
@pytest.mark.parametrize(
    ("name", "scheme", "capacity", "inject"),
    [
        ("S", "dense", 7, False),
        ("S", "structured:5:8", 10, False),
        ("S", "structured:5:8", 12, False),
        ("S beta 2", "unstructured:0.7", 10, False),
        ("S beta 2", "unstructured:0.7", 12, True),
        ("U", "dense", 5, False),
        ("U", "unstructured:0.7", 5, False),
        ("U", "unstructured:0.7", 8, True),
        ("U window 64", "unstructured:0.7", 5, False),
        ("U window 64", "unstructured:0.7", 5, True),
    ],
)
def test_parts_give_the_layer(
    address_model, integer_layer, name, scheme, projection, capacity, inject, c_in
):
    """A layer that streams in parts, bands outside ranges of channels and the other way round,
    with p projected once or again, from windows or (3 channels) from im2col rows, whatever the
    order of transfers and computes."""
    rng = np.random.default_rng(capacity)
    machine = override(MACHINES[name], [f"dma.capacity_kib={capacity}"])
    geometry = {"projection": projection, "residual": True, "joined": "r"}
    spec = integer_layer(
        rng, c_in=c_in, c_out=40, kernel=3, stride=1, padding=1, h_in=6, w_in=4, k=18, **geometry
    )
    program = check(address_model, spec, machine, scheme, rng, inject=inject)
    assert len(program.parts) > 1


@st.composite
def geometries(draw):
    """Layers of any shape that the small machines hold."""
    kernel = draw(st.sampled_from([1, 2, 3, 5]))
    tap = draw(st.booleans())
    return {
        "c_in": draw(st.integers(1, 11)),
        "c_out": draw(st.integers(1, 20)),
        "kernel": kernel,
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, kernel - 1)),
        "h_in": draw(st.integers(kernel, 7)),
        "w_in": draw(st.integers(kernel, 7)),
        "k": draw(st.integers(1, 3)) * kernel**2 if tap else draw(st.integers(1, 40)),
        "projection": "tap" if tap else "patch",
        "unsigned_input": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "joined": draw(st.sampled_from(["", "r"])),
    }


@given(
    geometry=geometries(),
    name=st.sampled_from(sorted(MACHINES)),
    scheme=st.sampled_from(["dense", "unstructured:0", "unstructured:0.8", "unstructured:1"]),
    capacity=st.sampled_from([None, 6, 20]),
    inject=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_layer(address_model, integer_layer, geometry, name, scheme, capacity, inject, seed):
    """Any geometry, resident or in parts; a store that is too small is refused in a sentence."""
    rng = np.random.default_rng(seed)
    machine, spec = MACHINES[name], integer_layer(rng, **geometry)
    if capacity:
        machine = override(machine, [f"dma.capacity_kib={capacity}"])
    try:
        check(address_model, spec, machine, scheme, rng, inject=inject and scheme != "dense")
    except InputError as error:
        # Nothing else may be refused.
        if "raise it" not in str(error) and "raise memories" not in str(error):
            raise
