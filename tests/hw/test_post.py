# amaranth: UnusedElaboratable=no
"""What lies behind a VPU: totals of both kinds, and a residual memory, against the arithmetic."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import requantise, write_back
from sinai.common.contract import CONTRACT
from sinai.hw.post import PARAMETERS, Post

ADDRESS_BITS = 6
OUTPUTS = [
    "residual_en",
    "residual_address",
    "z_valid",
    "z",
    "y_en",
    "y_address",
    "y",
    "sum_en",
    "sum",
]
LAYER = {"shift": 0, "rough_shift": 0, "gain_shift": 0, "relu": 0, "add_residual": 0, "keep_sum": 0}
SCALE = {
    "multiplier": 2,
    "bias": 10,
    "rough_multiplier": 3,
    "rough_bias": -10,
    "gain": 1,
    "offset": 0,
}


@dataclass(frozen=True)
class Total:
    """One total and what comes with it."""

    total: int
    rough: bool
    address: int
    scale: dict

    def value(self, layer):
        """The int16 value of the total, from the arithmetic."""
        prefix = "rough_" if self.rough else ""
        scale, shift = self.scale, layer[f"{prefix}shift"]
        bias, multiplier = scale[f"{prefix}bias"], scale[f"{prefix}multiplier"]
        return int(requantise(self.total, bias, multiplier, shift))


def residual_at(address):
    """Contents of the residual memory: something else everywhere, of both signs."""
    return (address * 997 - 30000) % 65536 - 32768


def events(bench, totals, layer):
    """What `bench` does for a total a cycle (None for idle), as a set of events with their cycle.

    A memory with the contract's latency of one cycle answers the reads of residuals; without a read
    its data is noise.
    """
    dut = bench.dut
    spare = dut.latency + 2
    answers = {}
    found = []
    for _ in range(2):  # The second run has the answers to the reads of the first.
        found = []
        cycles = []
        for cycle, entry in enumerate([*totals, *[None] * spare]):
            ports = {**layer, "residual_data": answers.get(cycle, -21846)}
            if entry is not None:
                ports |= {
                    "valid": 1,
                    "total": entry.total,
                    "rough": entry.rough,
                    "address": entry.address,
                    "parameters": PARAMETERS.const(entry.scale).as_bits(),
                }
            cycles.append(ports)
        for cycle, outputs in enumerate(bench(cycles)):
            seen = dict(zip(OUTPUTS, outputs, strict=True))
            if seen["residual_en"]:
                found.append((cycle, "residual", seen["residual_address"]))
                answers[cycle + 1] = residual_at(seen["residual_address"])
            if seen["z_valid"]:
                found.append((cycle, "z", seen["z"]))
            if seen["y_en"]:
                found.append((cycle, "y", seen["y_address"], seen["y"]))
            if seen["sum_en"]:
                found.append((cycle, "sum", seen["y_address"], seen["sum"]))
    return set(found)


def expected(totals, layer, contract=CONTRACT):
    """The same from the arithmetic and the contract."""
    found = set()
    for cycle, entry in enumerate(totals):
        if entry is None:
            continue
        at_z = cycle + contract.requantise
        at_y = at_z + contract.merge
        value = entry.value(layer)
        residual = None
        if layer["add_residual"]:
            found.add((at_z - 1, "residual", entry.address))
            residual = residual_at(entry.address)
        if entry.rough:
            found.add((at_z, "z", value))
        s, y, _ = write_back(
            value,
            residual,
            entry.scale["gain"],
            entry.scale["offset"],
            layer["gain_shift"],
            layer["relu"],
            0,
            False,
        )
        found.add((at_y, "y", entry.address, int(y)))
        if layer["keep_sum"]:
            found.add((at_y, "sum", entry.address, int(s)))
    return found


@pytest.fixture(scope="module")
def unit(bench):
    return bench(Post(ADDRESS_BITS), OUTPUTS)


def test_layout_of_the_parameters():
    """M 15:0, b 47:16, M~ 63:48, b~ 95:64, a 111:96, c 127:112."""
    assert PARAMETERS.size == 128
    assert {name: (field.offset, field.width) for name, field in PARAMETERS} == {
        "multiplier": (0, 16),
        "bias": (16, 32),
        "rough_multiplier": (48, 16),
        "rough_bias": (64, 32),
        "gain": (96, 16),
        "offset": (112, 16),
    }
    assert all(field.shape.signed for _, field in PARAMETERS)


def test_exact_by_hand(unit):
    """(5 + 10) * 2 = 30; + residual_at(2) = 1994 - 30000 + 65536 - 32768 = 4762: s = 4792;
    4792 * 3 / 4 = 3594, - 594 = 3000. The residual is read a cycle before cycle 3."""
    layer = LAYER | {"gain_shift": 2, "add_residual": 1, "keep_sum": 1}
    scale = SCALE | {"gain": 3, "offset": -594}
    assert events(unit, [Total(5, False, 2, scale)], layer) == {
        (2, "residual", 2),
        (6, "y", 2, 3000),
        (6, "sum", 2, 4792),
    }


def test_rough_by_hand(unit):
    """(5 - 10) * 3 = -15, shifted by 1 = -7 (-7.5 up): to the selector and, by ReLU 0, to y."""
    layer = LAYER | {"rough_shift": 1, "relu": 1}
    assert events(unit, [Total(5, True, 2, SCALE)], layer) == {(3, "z", -7), (6, "y", 2, 0)}


def signed(bits):
    edge = 1 << (bits - 1)
    return st.sampled_from([0, 1, -1, -edge, edge - 1]) | st.integers(-edge, edge - 1)


SCALES = st.fixed_dictionaries(
    {name: signed(32 if "bias" in name else 16) for name, _ in PARAMETERS}
)
TOTALS = st.builds(
    Total,
    total=signed(40),
    rough=st.booleans(),
    address=st.integers(0, (1 << ADDRESS_BITS) - 1),
    scale=SCALES,
)
LAYERS = st.fixed_dictionaries(
    {
        "shift": st.integers(0, 62),
        "rough_shift": st.integers(0, 62),
        "gain_shift": st.integers(0, 20),
        "relu": st.booleans(),
        "add_residual": st.booleans(),
        "keep_sum": st.booleans(),
    }
)


@given(totals=st.lists(st.none() | TOTALS, min_size=1, max_size=12), layer=LAYERS)
@settings(max_examples=80, deadline=None)
def test_agrees_with_reference(unit, totals, layer):
    """Any order of exact, rough and idle cycles: every event in its cycle, and no other."""
    assert events(unit, totals, layer) == expected(totals, layer)


@pytest.mark.parametrize(("stages", "more"), [(1, 3), (2, 1), (5, 4), (3, 0)])
def test_latency_follows_the_contract(bench, stages, more):
    contract = replace(CONTRACT, requantise=stages, merge=more)
    dut = Post(ADDRESS_BITS, contract=contract)
    assert dut.latency == stages + more
    layer = LAYER | {"add_residual": 1, "keep_sum": 1}
    totals = [Total(5, False, 2, SCALE), Total(7, True, 3, SCALE), None, Total(9, False, 4, SCALE)]
    assert events(bench(dut, OUTPUTS), totals, layer) == expected(totals, layer, contract)


@pytest.mark.parametrize(
    ("bits", "stages", "message"),
    [(0, 3, "Address bits must be at least 1, not 0"), (4, 0, "at least 1, not 0: a residual")],
)
def test_out_of_range(bits, stages, message):
    with pytest.raises(ValueError, match=message):
        Post(bits, contract=replace(CONTRACT, requantise=stages))
