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
    Flag,
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
from sinai.hw.registers import WATCHDOG, fault_cycles, registers, windows
from sinai.hw.verilated import VerilatedCore

NAMES = ("structured-small", "unstructured-small")
#: A good layer is over well before; an error shows long before (but for the watchdog).
BOUND = 2_000_000
#: Of CONTROL.
START, RESET = 1, 4


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


class Refusals:
    """Announces bad descriptors, each alone in its queue, and plays a small layer after them."""

    def __init__(self, core, machine):
        self.core, self.machine = core, machine
        self.at = {register.name: register.address for register in registers(machine)}
        self.window = dict(zip(("transfer", "compute"), windows(machine), strict=True))
        small = dict(h_in=1, w_in=1, kernel=1, padding=0, k=8, c_in=4, c_out=8)
        self.case = corner(machine, "unstructured:0.5", 0, **small)
        self.made = made_of(self.case, machine)
        self.stream = input_stream(self.made, self.case.operands)
        self.wanted = self.case.reference()

    def __call__(self, queue, words, *, early=0):
        """STATUS as it is when the bound is over, or `early` cycles sooner: error, queue, slot."""
        core, at = self.core, self.at
        core.write(at["CONTROL"], START)
        for number, word in enumerate(words.tolist()):
            core.write(self.window[queue].address + 4 * number, word)
        core.write(at["TAIL"], 1 << (0 if queue == "transfer" else 16))
        core.step(fault_cycles(self.machine, queue) - 1 - early)
        status = core.read(at["STATUS"])
        return status >> 8 & 0xFF, status >> 16 & 1, status >> 24

    def recovers(self):
        """After a soft reset the good layer passes."""
        self.core.write(self.at["CONTROL"], RESET)
        played = play(self.core, self.made, self.stream, limit=BOUND)
        found = read_outputs(self.made, played.output, order=self.case.operands.order)
        np.testing.assert_array_equal(found.y, self.wanted.y[0])
        np.testing.assert_array_equal(found.yq, self.wanted.yq[0])


@pytest.fixture(scope="module")
def refused(core, machine):
    return Refusals(core, machine)


def outside(field):
    """Words out of the range of a field: beside its ends, and the ends of 32 bits."""
    limit = 1 << 31
    for value in {field.low - 1, field.high + 1, -limit, limit - 1, limit, -1}:
        word = value % (1 << 32)
        as_read = (word + limit) % (1 << 32) - limit if field.signed else word
        if not field.low <= as_read <= field.high:
            yield word


@pytest.mark.parametrize("queue", ["transfer", "compute"])
def test_every_field_out_of_range_is_refused(machine, refused, queue):
    """16 + the number of the field stands in STATUS in time; then a good layer passes."""
    _, made = good_words(machine)
    table = (transfer_fields if queue == "transfer" else compute_fields)(machine)
    header = TRANSFER if queue == "transfer" else COMPUTE
    good = made.transfers[0].fields if queue == "transfer" else made.computes[0]
    for number, field in enumerate(table):
        words = list(outside(field))
        assert len(words) >= 2
        for word in words:
            found = refused(queue, pack(header, table, good | {field.name: word}))
            assert found == (16 + number, queue == "compute", 0), (field, word)
            refused.recovers()


def test_random_words_are_refused(machine, refused):
    """1000 descriptors of random words, a third with the right header: an error each, in time; a
    good layer passes after every tenth."""
    _, made = good_words(machine)
    rng = np.random.default_rng(11)
    words = {"transfer": made.transfer_words()[0], "compute": made.compute_words()[0]}
    for trial in range(1000):
        queue = ("transfer", "compute")[trial % 2]
        noise = rng.integers(0, 1 << 32, len(words[queue]), dtype=np.uint64).astype(np.uint32)
        if trial % 3 == 0:
            noise[0] = words[queue][0]
        error, of_compute, _ = refused(queue, noise)
        assert error >= 16 if trial % 3 == 0 else error == Fault.HEADER
        assert of_compute == (queue == "compute")
        if trial % 10 == 0:
            refused.recovers()
        else:
            refused.core.write(refused.at["CONTROL"], RESET)


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
            core.write(at["CONTROL"], RESET)
            core.step(2)
            core.reset(edges=0)  # no reset: the host only drops what it had still to send
        assert check(core, machine, case).counters == fresh


@pytest.mark.parametrize("queue", ["transfer", "compute"])
def test_contradiction_is_refused(machine, refused, queue):
    """Fields in range that cannot go together: the last check there is, just within the bound."""
    _, made = good_words(machine)
    if queue == "transfer":
        good = made.transfers[0].fields
        words = pack(
            TRANSFER, transfer_fields(machine), good | {"outer": 1 << 16, "stride": 1 << 11}
        )
    else:
        good = made.computes[0]
        words = pack(COMPUTE, compute_fields(machine), good | {"tiles": good["tiles"] + 1})
    assert refused(queue, words, early=1)[0] == Fault.NONE
    refused.recovers()
    assert refused(queue, words) == (Fault.COMBINATION, queue == "compute", 0)
    refused.recovers()


def test_wait_without_end_is_stopped(core, machine, refused):
    """p of a block fills its memory and is never released: the watchdog sees what no check does."""
    case = corner(machine, "unstructured:0.5", 0)
    made = made_of(case, machine)
    [good] = made.computes
    room = good["tile_depth"] + (good["tile_more"] > 0)
    change = {"p_room": room, "flags": good["flags"] & ~Flag.RELEASE}
    words = pack(COMPUTE, compute_fields(machine), good | change)
    stream = input_stream(made, case.operands)
    played = play_words(core, machine, made.transfer_words(), [words], stream, limit=2 * WATCHDOG)
    assert played.error == Fault.STALLED
    refused.recovers()


def test_random_layer_of_every_kind_is_drawn():
    """The generator of the cases reaches what the tests are for."""
    drawn = [random_layer(np.random.default_rng(seed)) for seed in range(300)]
    assert {layer.kernel for layer in drawn} == {1, 3, 7}
    assert {layer.stride for layer in drawn} == {1, 2}
    assert {layer.projection for layer in drawn} == {"patch", "tap"}
    assert any(layer.pixels == 1 for layer in drawn)
    assert any(layer.c_in < 4 for layer in drawn)
