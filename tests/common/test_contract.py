"""Derived latencies of the contract, summed by hand along the pipeline."""

import dataclasses

import pytest

from sinai.common.contract import CONTRACT, STALL_CAUSES, Contract

#: A contract whose latencies are distinct powers of two, so that a sum tells its terms.
SPREAD = Contract(
    fetch=1 << 15,
    load=1 << 16,
    store=1 << 17,
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
FEED = ["sram_read", "operand"]
TO_Z = [*FEED, *PSE, "tree", "accumulate", "requantise"]


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("pse", PSE),
        ("vpu", [*PSE, "tree", "accumulate"]),
        ("feed", FEED),
        ("to_z", TO_Z),
        ("drain", [*TO_Z, "merge", "write"]),
        ("to_mask", [*TO_Z, "compare", "mask_write", "sram_read"]),
        ("to_indices", [*TO_Z, "rank", "mask_write", "sram_read"]),
        ("rpu_fill", ["sram_read", "rpu", "rpu_write"]),
    ],
)
def test_paths_are_the_sum_of_their_units(name, terms):
    assert getattr(SPREAD, name) == sum(getattr(SPREAD, term) for term in terms)


def test_every_latency_is_at_least_a_cycle():
    assert all(value >= 1 for value in dataclasses.asdict(CONTRACT).values())


@pytest.mark.parametrize(("name", "twice"), [("to_mask", 1), ("to_indices", 1)])
def test_a_mask_is_read_from_its_memory_before_it_is_used(name, twice):
    """Two reads lie on the way: of the operands, and of the mask."""
    later = dataclasses.replace(SPREAD, sram_read=SPREAD.sram_read + 1)
    assert getattr(later, name) - getattr(SPREAD, name) == 1 + twice


def test_launch_walks_the_columns():
    assert SPREAD.launch(8) == SPREAD.descriptor + 8


def test_stall_causes_are_distinct():
    assert len(set(STALL_CAUSES)) == len(STALL_CAUSES) == 8
