"""Parts of a batch, what stays on chip between them, and images stacked to one."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from sinai.common.batch import stack, stack_inputs, togethers
from sinai.common.cases import companions, random_case
from sinai.common.commands import commands
from sinai.common.descriptor import MAX_SIDE, Flag, Target
from sinai.common.errors import InputError
from sinai.common.integer import run_layer
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS, override
from sinai.common.operands import input_stream
from sinai.common.order import order
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme

U, S = PRESETS["unstructured-small"], PRESETS["structured-small"]
STREAMS = ["dma.capacity_kib=16"]
DENSE, HALF, RANKED = (
    Scheme.parse(text) for text in ("dense", "unstructured:0.5", "structured:7:8")
)


def layer(**changes):
    base = dict(
        name="l", c_in=8, c_out=16, kernel=3, stride=1, padding=1, h_in=4, w_in=4, k=64,
        projection_nonzeros=100,
    )  # fmt: skip
    return Layer(**(base | changes))


def targets(program, part):
    return [move.target for move in program.parts[part].place.loads]


@pytest.mark.parametrize("machine", [U, S], ids=["unstructured", "structured"])
def test_resident_images_follow_each_other_in_one_place(machine):
    """Weights, parameters and P once, inputs of each image where those of the last were."""
    program = compile_layer(layer(), machine, HALF, 3)
    assert [(part.image, part.row, part.channel) for part in program.parts] == [
        (image, 0, 0) for image in range(3)
    ]
    assert len({part.place[:-2] for part in program.parts}) == 1
    first = [Target.PROJECTION, Target.XQ, Target.WEIGHTS, Target.PARAMETERS, Target.X]
    assert [targets(program, part) for part in range(3)] == [first, *[[Target.XQ, Target.X]] * 2]
    assert all(part.projects and part.releases for part in program.parts)


def test_order_with_one_place():
    """L0 | L1 S0 | L2 S1 | S2, each load after the compute before it."""
    parts = compile_layer(layer(), U, DENSE, 3).parts
    made = order(parts, 1)
    assert [(each.part, each.wait, each.move.target >= 8) for each in made.transfers] == [
        (0, 0, False),
        (0, 0, False),
        (0, 0, False),
        (1, 1, False),
        (0, 1, True),
        (2, 2, False),
        (1, 2, True),
        (2, 3, True),
    ]
    assert made.needed == (3, 5, 7)


def test_weights_of_a_range_stay_for_all_images():
    """Several ranges of channels on a narrow stream: each is loaded once."""
    wide = layer(c_out=64, c_in=16, k=72)
    for machine in (U, S):
        narrow = override(machine, [*STREAMS, "dma.bytes_per_cycle=1"])
        program = compile_layer(wide, narrow, HALF, 4)
        loads = [target for part in range(len(program.parts)) for target in targets(program, part)]
        ranges = {(part.channel, part.channels) for part in program.parts}
        assert len(ranges) > 1
        assert loads.count(Target.WEIGHTS) == loads.count(Target.PARAMETERS) == len(ranges)
        assert loads.count(Target.PROJECTION) == 1
        # Every output of every image is computed once.
        done = np.zeros((4, wide.h_out, wide.c_out), dtype=int)
        for part in program.parts:
            rows = slice(part.row, part.row + part.rows)
            done[part.image, rows, part.channel : part.channel + part.channels] += 1
        assert (done == 1).all()


def test_parts_of_other_images_do_not_share_inputs_or_p():
    machine = override(S, STREAMS)
    program = compile_layer(layer(c_out=64, c_in=16, k=72), machine, HALF, 3)
    for one, two in pairwise(program.parts):
        same = (one.image, one.row, one.rows) == (two.image, two.row, two.rows)
        assert two.projects == (not same)
        assert (Target.X in [move.target for move in two.place.loads]) == (not same)


def test_images_are_stacked_where_that_is_fewer_cycles():
    """At 7:8, R = 8 accumulators hold a block of 8 batches; 4 pixels have 2 batches."""
    small = layer(h_in=2, w_in=2, c_in=16, k=72)
    program = compile_layer(small, S, RANKED, 4)
    assert (program.together, len(program.parts), program.images) == (4, 1, 4)
    assert program.layer.pixels == 16
    assert compile_layer(small, S, RANKED).together == 1
    # A map that fills its blocks gains nothing.
    assert compile_layer(layer(h_in=8, w_in=8), S, DENSE, 4).together == 1


@pytest.mark.parametrize(
    ("changes", "machine", "scheme"),
    [
        ({}, U, DENSE),  # no blocks that a map could leave shallow
        ({}, S, HALF),  # a threshold an image
        ({"projection": "tap", "k": 72}, S, RANKED),  # copies taps of real neighbours
        ({"h_in": MAX_SIDE // 2, "w_in": 3}, S, RANKED),  # more rows than a descriptor says
    ],
)
def test_what_is_not_stacked(changes, machine, scheme):
    counts = togethers(layer(**changes), machine, scheme, 4)
    assert counts == ([1, 2] if "h_in" in changes else [1])


def test_counts_together_divide_the_batch():
    assert togethers(layer(), S, RANKED, 6) == [1, 2, 3, 6]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_stack_computes_what_its_images_do(kernel, stride):
    """One layer of im2col rows gives the outputs of all images, an image below the other."""
    found = 0
    for seed in range(60):
        case = random_case(seed, S)
        own = case.layer
        kind = (own.kernel, own.stride, own.projection if own.taps > 1 else "patch")
        if kind != (kernel, stride, "patch") or case.scheme.kind == "unstructured":
            continue
        found += 1
        batch = companions(case, S, 3)
        spec = case.operands.spec
        stacked = replace(spec, layer=stack(own, 3))
        x, xq = (
            stack_inputs(own, [getattr(each.operands, name) for each in batch])
            for name in ("x", "xq")
        )
        residual = None
        if own.residual:
            residual = np.concatenate([each.operands.residual for each in batch])[None]
        made = run_layer(stacked, x[None], xq[None], residual, case.scheme)
        expected = np.concatenate([each.reference().y[0] for each in batch])
        np.testing.assert_array_equal(made.y[0], expected)
    assert found


def test_a_batch_of_one_is_what_it_was():
    for machine in (U, S, override(U, STREAMS), override(S, STREAMS)):
        for scheme in (DENSE, HALF):
            wide = layer(c_out=64, c_in=16, k=72)
            one = compile_layer(wide, machine, scheme, 1)
            assert one == compile_layer(wide, machine, scheme)
            assert one.layer is wide
            assert {part.image for part in one.parts} == {0}


def test_theta_is_of_each_image():
    case = next(c for c in (random_case(seed, U) for seed in range(50)) if c.theta is not None)
    program = compile_layer(case.layer, U, case.scheme, 3)
    spec = case.operands.spec
    made = commands(program, spec, theta=[5, -7, 9])
    assert [each["theta"] for each in made.computes] == [5, -7, 9]
    assert [each["theta"] for each in commands(program, spec, theta=4).computes] == [4] * 3
    assert all(each["flags"] & Flag.PROJECT for each in made.computes)
    with pytest.raises(InputError, match="theta must be one value or 3, one an image, not 2"):
        commands(program, spec, theta=[1, 2])
    with pytest.raises(InputError, match="operands must be those of 3 image"):
        input_stream(made, case.operands)


def test_a_batch_has_images():
    with pytest.raises(InputError, match="batch must be at least 1, not 0"):
        compile_layer(layer(), S, DENSE, 0)
