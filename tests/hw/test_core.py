"""The whole core, compiled: random layers, corners, bad descriptors, resets, a trained network."""

from dataclasses import replace

import numpy as np
import pytest

from sinai.common.cases import Case, operands_of, random_case, random_layer, random_spec
from sinai.common.commands import commands
from sinai.common.descriptor import (
    COMPUTE,
    TRANSFER,
    Fault,
    compute_fields,
    pack,
    transfer_fields,
)
from sinai.common.errors import MissingError
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS
from sinai.common.operands import input_stream, read_outputs
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.hw.driver import play, play_words
from sinai.hw.registers import registers
from sinai.hw.verilated import VerilatedCore

NAMES = ("structured-small", "unstructured-small")
#: A good layer is over well before; an error shows long before (but for the watchdog).
BOUND = 2_000_000


@pytest.fixture(scope="module", params=NAMES)
def machine(request):
    return PRESETS[request.param]


@pytest.fixture(scope="module")
def core(machine):
    try:
        return VerilatedCore(machine)
    except MissingError as error:
        pytest.skip(str(error))


def made_of(case: Case, machine, **kwargs):
    program = compile_layer(case.layer, machine, case.scheme)
    inject = case.operands.mask is not None and not case.scheme.dense
    return commands(program, case.operands.spec, theta=case.theta, inject=inject, **kwargs)


def check(core, machine, case: Case, **gaps):
    """Run a case; fail unless y, y^Q, s and the masks equal the integer model's."""
    room = case.layer.pixels * case.layer.c_out < 4000
    made = made_of(
        case,
        machine,
        store_sums=bool(case.layer.joined),
        store_masks=not case.scheme.dense and case.operands.mask is None and room,
    )
    played = play(core, made, input_stream(made, case.operands), limit=BOUND, **gaps)
    found = read_outputs(made, played.output, order=case.operands.order)
    wanted = case.reference()
    for name, value in (("y", wanted.y), ("yq", wanted.yq), ("s", wanted.s), ("mask", wanted.mask)):
        got = getattr(found, name)
        if got is not None:
            np.testing.assert_array_equal(got, value[0], err_msg=f"{name} of {case}")
    return played


@pytest.mark.parametrize("block", range(8))
def test_random_layers(core, machine, block):
    """30 layers a block, 240 a machine, most of them with waiting streams."""
    for seed in range(30 * block, 30 * (block + 1)):
        rng = np.random.default_rng(seed)
        gaps = {"input_gaps": 0.0, "output_gaps": 0.0}
        if seed % 4:
            gaps = {"input_gaps": rng.uniform(0, 0.7), "output_gaps": rng.uniform(0, 0.9)}
        check(core, machine, random_case(seed, machine), seed=seed, **gaps)


def test_a_wrong_bit_is_seen(core, machine):
    case = random_case(3, machine)
    made = made_of(case, machine)
    stream = input_stream(made, case.operands)
    spoiled = stream.copy()
    spoiled[: stream.size // 2] ^= 1
    good = play(core, made, stream, limit=BOUND)
    bad = play(core, made, spoiled, limit=BOUND)
    assert good.output != bad.output


def corner(machine, scheme, theta=None, mask=None, seed=0, **geometry) -> Case:
    base = dict(
        name="corner", c_in=8, c_out=16, kernel=3, stride=1, padding=1, h_in=5, w_in=6, k=40
    )  # fmt: skip
    layer = Layer(**(base | geometry))
    rng = np.random.default_rng(seed)
    spec = random_spec(rng, layer)
    case = Case(operands_of(rng, spec, machine), Scheme.parse(scheme), theta, seed)
    if mask is not None:
        full = np.full((layer.pixels, layer.c_out), mask)
        case = replace(case, operands=replace(case.operands, mask=full))
    return case


CORNERS = {
    "one pixel": dict(h_in=1, w_in=1, kernel=1, padding=0, k=8),
    "one channel": dict(c_in=1, c_out=1, k=9),
    "three input channels": dict(c_in=3, k=27),
    "odd sizes, stride 2": dict(h_in=7, w_in=5, stride=2),
    "7x7, stride 2": dict(kernel=7, padding=3, stride=2, h_in=9, w_in=8),
    "columns of one bank": dict(h_in=8, w_in=8, stride=2),
    "channels that divide nothing": dict(c_in=13, c_out=21),
    "k not a multiple of a beat": dict(k=65),
    "tap": dict(k=72, projection="tap"),
    "one column": dict(w_in=3, padding=0),
    "added residual": dict(residual=True),
    "kept sum": dict(joined="stage"),
    "residual and kept sum": dict(residual=True, joined="stage"),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners(core, machine, name):
    schemes = [("dense", None), *(("unstructured:0.5", t) for t in (-32768, 0, 32768))]
    if not machine.unstructured:
        schemes += [(f"structured:{q}:8", None) for q in (0, 1, 4, 7, 8)]
    for scheme, theta in schemes:
        check(core, machine, corner(machine, scheme, theta, **CORNERS[name]))


def test_everything_essential_is_dense(core, machine):
    """A full mask gives the y of the dense layer, bit for bit."""
    dense = corner(machine, "dense")
    outputs = []
    for case in (dense, replace(dense, scheme=Scheme.parse("unstructured:0.5"), theta=-32768)):
        made = made_of(case, machine)
        output = play(core, made, input_stream(made, case.operands)).output
        outputs.append(read_outputs(made, output, order=case.operands.order).y)
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("share", [False, True])
def test_injected_masks_win(core, machine, share):
    check(core, machine, corner(machine, "unstructured:0.5", 0, mask=share))


def test_output_waits_at_every_offset(core, machine):
    """However long the output stream waits, no word is lost or doubled."""
    case = corner(machine, "dense", h_in=3, w_in=3)
    for seed in range(40):
        check(core, machine, case, output_gaps=0.95, seed=seed)


def test_layers_follow_each_other_without_reset(core, machine):
    """Nothing of a layer is left in the next: in turn, the same cycles as alone."""
    cases = [random_case(seed, machine) for seed in (5, 9, 14)]
    alone = []
    for case in cases:
        core.reset()
        alone.append(check(core, machine, case).counters)
    for _ in range(2):
        for case, counters in zip(cases, alone, strict=True):
            assert check(core, machine, case).counters == counters


def good_words(machine):
    case = corner(machine, "unstructured:0.5", 0, h_in=3, w_in=3)
    made = made_of(case, machine)
    return case, made


def recovers(core, machine, case):
    """After a soft reset a good layer passes."""
    at = {register.name: register.address for register in registers(machine)}
    core.write(at["CONTROL"], 4)
    check(core, machine, case)


@pytest.mark.parametrize("queue", ["transfer", "compute"])
def test_every_field_out_of_range_is_refused(core, machine, queue):
    """Its code stands in STATUS, 16 + the number of the field; then a good layer passes."""
    case, made = good_words(machine)
    table = (transfer_fields if queue == "transfer" else compute_fields)(machine)
    header = TRANSFER if queue == "transfer" else COMPUTE
    good = made.transfers[0].fields if queue == "transfer" else made.computes[0]
    at = {register.name: register.address for register in registers(machine)}
    tried = 0
    for number, field in enumerate(table):
        limit = 1 << 31
        values = {field.low - 1, field.high + 1, -limit, limit - 1, 0xFFFFFFFF}
        if not field.signed:
            values = {value % (1 << 32) for value in values}
        for value in values:
            as_read = (value + limit) % (1 << 32) - limit if field.signed else value % (1 << 32)
            if field.low <= as_read <= field.high:
                continue
            words = pack(header, table, good | {field.name: value})
            queues = ([words], []) if queue == "transfer" else ([], [words])
            played = play_words(core, machine, *queues, limit=400)
            assert played.error == 16 + number, (field, value)
            core.write(at["CONTROL"], 4)
            tried += 1
    assert tried >= len(table)
    check(core, machine, case)


def test_random_words_are_refused(core, machine):
    """1000 descriptors of random words: an error each, at once; then a good layer passes."""
    case, made = good_words(machine)
    rng = np.random.default_rng(11)
    at = {register.name: register.address for register in registers(machine)}
    words = {"transfer": made.transfer_words()[0], "compute": made.compute_words()[0]}
    for trial in range(1000):
        queue = ("transfer", "compute")[trial % 2]
        noise = rng.integers(0, 1 << 32, len(words[queue]), dtype=np.uint64).astype(np.uint32)
        if trial % 3 == 0:
            noise[0] = words[queue][0]
        queues = ([noise], []) if queue == "transfer" else ([], [noise])
        played = play_words(core, machine, *queues, limit=400)
        assert played.error != 0
        core.write(at["CONTROL"], 4)
    check(core, machine, case)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_reset_in_mid_layer(core, machine, kind):
    """Stopped at any cycle, of loads, compute or stores, the core runs the next layer as ever."""
    case, made = good_words(machine)
    stream = input_stream(made, case.operands)
    core.reset()
    fresh = check(core, machine, case).counters
    whole = fresh["cycles"] + fresh["cycles_load"] + fresh["cycles_store"]
    at = {register.name: register.address for register in registers(machine)}
    for cycles in np.random.default_rng(4).integers(1, whole, 40).tolist():
        play_words(core, machine, made.transfer_words(), made.compute_words(), stream, limit=cycles)
        if kind == "hard":
            core.reset()
        else:
            core.write(at["CONTROL"], 4)
            core.step(2)
            core.reset(edges=0)  # no reset: the host only drops what it had still to send
        assert check(core, machine, case).counters == fresh


def test_contradiction_ends_in_an_error(core, machine):
    """Fields in range that cannot go together are refused, or the watchdog stops the machine."""
    _, made = good_words(machine)
    fields = made.computes[0]
    for change in ({"groups": fields["groups"] + 1}, {"tiles": fields["tiles"] + 1}):
        words = pack(COMPUTE, compute_fields(machine), fields | change | {"wait": 0})
        played = play_words(core, machine, [], [words], limit=3 << 20)
        assert played.error in (Fault.COMBINATION, Fault.STALLED)
        at = {register.name: register.address for register in registers(machine)}
        core.write(at["CONTROL"], 4)


def test_random_layer_of_every_kind_is_drawn():
    """The generator of the cases reaches what the tests are for."""
    drawn = [random_layer(np.random.default_rng(seed)) for seed in range(300)]
    assert {layer.kernel for layer in drawn} == {1, 3, 7}
    assert {layer.stride for layer in drawn} == {1, 2}
    assert {layer.projection for layer in drawn} == {"patch", "tap"}
    assert any(layer.pixels == 1 for layer in drawn)
    assert any(layer.c_in < 4 for layer in drawn)
