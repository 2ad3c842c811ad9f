# amaranth: UnusedElaboratable=no
"""Parts of the projection unit, each against a formula of its own, and how they are emitted."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.machine import PRESETS
from sinai.hw.projection_packer import ProjectionPacker
from sinai.hw.projection_row import TernaryRow
from sinai.hw.projection_sums import SUM_BITS, ProjectionSums
from sinai.hw.rpu import Rpu
from sinai.hw.share import Emitter
from sinai.hw.words import pack, unpack

#: Two bits of a weight; 2 is a second zero.
CODES = {0: 0, 1: 1, 2: 0, 3: -1}


@pytest.fixture(scope="module")
def row(bench):
    """Eight elements; half a row is loaded at a time."""
    return bench(TernaryRow(8, 8), ["sum"])


def word(values, width):
    return sum(int(v) % (1 << width) << width * i for i, v in enumerate(values))


@given(st.integers(0, 999), st.booleans())
@settings(max_examples=25, deadline=None)
def test_row_sums_with_either_tile(row, seed, extreme):
    """Both tiles loaded in halves; sums with one and the other, a cycle later each."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (2, 8))
    if extreme:
        codes[0], codes[1] = 1, 3
    cycles, expected = [], []
    for half in range(2):
        for chunk in range(2):
            data = word(codes[half, 4 * chunk : 4 * chunk + 4], 2)
            cycles.append({"load": 1 << chunk, "load_half": half, "load_data": data})
    # Idle cycles have other inputs at random, `load` among them: keep it low.
    for half in (0, 1, 1, 0):
        x = np.full(8, 15) if extreme else rng.integers(-8, 16, 8)
        cycles.append({"load": 0, "valid": 1, "half": half, "x": word(x, 5)})
        expected.append(int(sum(CODES[c] * v for c, v in zip(codes[half], x, strict=True))))
    seen = row([*cycles, {"load": 0}])
    assert [value for (value,) in seen[5:]] == expected


def test_row_needs_a_whole_chunk():
    with pytest.raises(ValueError, match="a chunk that divides their bits, not 8 and 3"):
        TernaryRow(8, 3)


@pytest.fixture(scope="module")
def sums(bench):
    """Words of three sums of 12-bit terms."""
    return bench(ProjectionSums(3, 12, 4), ["o_valid", "o_nibbles"])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=25),
    st.integers(0, 31),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_sums_of_words_in_any_order(sums, order, shift, seed):
    """(word, idle cycles before, last): the same word may come again in the next cycle."""
    rng = np.random.default_rng(seed)
    cycles, expected, stored, terms = [], [], {}, {}
    for address, idle, last in order:
        cycles += [{"shift": shift} for _ in range(idle)]
        values = rng.integers(-2048, 2048, 3)
        first = address not in stored
        total = stored.pop(address, 0) + values
        terms[len(cycles) + 1] = word(values, 12)
        cycles.append(
            {"valid": 1, "first": first, "last": last, "address": address, "shift": shift}
        )
        if not last:
            stored[address] = total
        else:
            half = 1 << shift >> 1
            p = [min(7, max(-8, int(t) + half >> shift)) for t in total]
            expected.append((len(cycles) - 1 + ProjectionSums.latency, pack(p, 4)))
    cycles += [{"shift": shift}] * 3
    for cycle, value in terms.items():
        cycles[cycle] = {**cycles[cycle], "terms": value}
    seen = [(cycle, p) for cycle, (valid, p) in enumerate(sums(cycles)) if valid]
    assert seen == expected


@pytest.mark.parametrize("value", [15 * 32767, -15 * 32767])
@pytest.mark.parametrize("shift", [0, 15, 16, 17, 18, 19, 31])
def test_largest_sums(bench, value, shift):
    """32767 elements of 15, all of one sign, in terms as wide as a sum."""
    dut = ProjectionSums(1, SUM_BITS, 2)
    cycles = [
        {"valid": 1, "first": 1, "last": 1, "address": 0, "shift": shift},
        {"shift": shift, "terms": word([value], SUM_BITS)},
        {"shift": shift},
    ]
    seen = bench(dut, ["o_valid", "o_nibbles"])(cycles)
    assert [int(v) for v, _ in seen] == [0, 0, 1]
    expected = min(7, max(-8, value + (1 << shift >> 1) >> shift))
    assert unpack(seen[2][1], 4, 1)[0] == expected


@pytest.fixture(scope="module")
def packer(bench):
    """Pieces of up to 16 nibbles into beats of 16."""
    return bench(ProjectionPacker(16, 16), ["o_valid", "o_last", "o_data"])


@given(
    st.integers(1, 4),
    st.sampled_from([1, 4, 9, 25]),
    st.lists(st.integers(0, 1), min_size=75, max_size=75),
    st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_pieces_of_a_pixel_become_beats(packer, units, taps, gaps, seed):
    """Three pixels, with or without idle cycles: their nibbles side by side, zeros at the end."""
    rng = np.random.default_rng(seed)
    length, gaps = 4 * units, iter(gaps)
    cycles, expected = [], []
    for _ in range(3):
        pieces = rng.integers(0, 16, (taps, 16))  # what is above `units` is to be ignored
        for n, piece in enumerate(pieces):
            cycles += [{"units": units} for _ in range(next(gaps))]
            last = n == taps - 1
            cycles.append({"valid": 1, "last": last, "units": units, "data": word(piece, 4)})
        flat = pieces[:, :length].ravel()
        beats = -(-flat.size // 16)
        flat = np.pad(flat, (0, 16 * beats - flat.size)).reshape(beats, 16)
        expected += [(n == beats - 1, word(beat, 4)) for n, beat in enumerate(flat)]
    seen = packer([*cycles, *[{"units": units}] * 2])
    assert [(last, data) for valid, last, data in seen if valid] == expected


def test_verilog_holds_the_row_once():
    """The published structured machine: 32 instances of one adder row, and no huge lines."""
    machine = PRESETS["structured"]
    unit = Rpu(machine)
    unit.module_name = "sinai_rpu"
    emitter = Emitter()
    text = emitter.emit(unit).verilog
    rows = [name for name in emitter.entries if name.startswith("sinai_ternary_row")]
    assert rows == ["sinai_ternary_row_512x1024"]
    assert emitter.reach("sinai_rpu")[rows[0]] == machine.rpu.rows == 32
    assert len(re.findall(r"^  sinai_ternary_row_512x1024 \w+ \(", text, re.M)) == 32
