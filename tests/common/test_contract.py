"""Derived latencies of the contract, summed by hand along the pipeline."""

import dataclasses

import pytest

from sinai.common.contract import CONTRACT, STALL_CAUSES, Contract

#: A contract whose latencies are distinct powers of two, so that a sum tells its terms.
SPREAD = Contract(
    descriptor=1 << 0,
    sram_read=1 << 1,
    operand=1 << 2,
    pse_multiply=1 << 3,
    pse_combine=1 << 4,
    tree=1 << 5,
    accumulate=1 << 6,
    requantise=1 << 7,
    merge=1 << 8,
    write=1 << 9,
    compare=1 << 10,
    rank=1 << 11,
    mask_write=1 << 12,
    rpu=1 << 13,
    rpu_write=1 << 14,
    scan_bits=64,
)


PSE = ["pse_multiply", "pse_combine"]
TO_Z = [*PSE, "tree", "accumulate", "requantise"]


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("pse", PSE),
        ("vpu", [*PSE, "tree", "accumulate"]),
        ("feed", ["sram_read", "operand"]),
        ("to_z", TO_Z),
        ("drain", [*TO_Z, "merge", "write"]),
        ("to_mask", [*TO_Z, "compare", "mask_write"]),
        ("to_indices", [*TO_Z, "rank", "mask_write"]),
        ("rpu_fill", ["sram_read", "rpu", "rpu_write"]),
    ],
)
def test_paths_are_the_sum_of_their_units(name, terms):
    assert getattr(SPREAD, name) == sum(getattr(SPREAD, term) for term in terms)


def test_every_latency_is_at_least_a_cycle():
    assert all(value >= 1 for value in dataclasses.asdict(CONTRACT).values())


@pytest.mark.parametrize(
    ("window", "rows", "cycles"),
    [(1, 64, 1), (1, 65, 2), (16, 4, 16), (16, 128, 32)],
)
def test_scan_reads_64_bits_a_cycle_for_each_pixel(window, rows, cycles):
    assert CONTRACT.scan(window, rows) == cycles


def test_stall_causes_are_distinct():
    assert len(set(STALL_CAUSES)) == len(STALL_CAUSES) == 9
