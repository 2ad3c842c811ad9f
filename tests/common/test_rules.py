"""Rules over fields of a descriptor: by hand, against formulas, and kept by compiled layers."""

from math import ceil, log2

import numpy as np
import pytest

from sinai.common.cases import random_case
from sinai.common.commands import commands
from sinai.common.contract import CONTRACT
from sinai.common.descriptor import (
    Flag,
    Target,
    compute_fields,
    memory_depth,
    slot_words,
    target_memory,
    transfer_cycles,
    transfer_fields,
    transfer_row_bits,
)
from sinai.common.machine import PRESETS
from sinai.common.program import compile_layer
from sinai.common.rules import (
    DEPTH,
    Multiply,
    broken,
    compute_rules,
    fetch_cycles,
    schedule,
    transfer_rules,
)

S, U = PRESETS["structured-small"], PRESETS["unstructured-small"]
ROUGH = int(Flag.APPROXIMATE | Flag.EXACT | Flag.PROJECT)


def a_part(machine, **changes):
    """20 channels, 13 pixels: on S two supergroups and 7 batches, in blocks of 3, 2 and 2; on U
    five rows and 13 pixels, in blocks of 5, 4 and 4. p has 9 rows, in 3 tiles of 4."""
    values = {field.name: field.low for field in compute_fields(machine)}
    values |= {"flags": ROUGH, "channels": 20, "pixels": 13, "tiles": 3, "tile_more": 1}
    values |= {"p_rows": 9, "p_row_tiles": 3, "rough_beats": 1, "p_room": 9}
    if machine.unstructured:
        values |= {"groups": 5, "batches": 13, "tile_depth": 4}
    else:
        values |= {"groups": 2, "batches": 7, "tile_depth": 2}
        values |= {"sub_count": 1, "sub_depth": 2, "sub_more": 0}
        values |= {"sub_count_deep": 2, "sub_depth_deep": 1, "sub_more_deep": 1}
    return values | changes


@pytest.mark.parametrize(
    ("machine", "changes", "meanings"),
    [
        pytest.param(S, {}, set(), id="S: a good part"),
        pytest.param(U, {}, set(), id="U: a good part"),
        pytest.param(S, {"pixels": 14}, set(), id="S: 14 pixels are 7 batches too"),
        pytest.param(S, {"pixels": 15}, {"batches = ceil(pixels / T)"}, id="a batch missing"),
        pytest.param(S, {"pixels": 12}, {"batches = ceil(pixels / T)"}, id="a batch too many"),
        pytest.param(U, {"pixels": 14}, {"batches = ceil(pixels / T)"}, id="U: a pixel missing"),
        pytest.param(
            S, {"channels": 33}, {"groups = ceil(channels / channels side by side)"}, id="group"
        ),
        pytest.param(
            U, {"channels": 16}, {"groups = ceil(channels / channels side by side)"}, id="row"
        ),
        pytest.param(S, {"tiles": 4}, {"tiles * tile_depth + tile_more = batches"}, id="tiles"),
        pytest.param(
            S,
            {"tiles": 2, "tile_more": 3},
            {"tile_more < tiles"},
            id="more deep blocks than blocks",
        ),
        pytest.param(
            S,
            {"sub_depth": 1},
            {"sub_count * sub_depth + sub_more = tile_depth"},
            id="sub-blocks do not cover",
        ),
        pytest.param(
            S,
            {"sub_more": 1, "sub_depth": 1},
            {"sub_more < sub_count"},
            id="more deep sub-blocks than sub-blocks",
        ),
        pytest.param(
            S,
            {"sub_count": 2, "sub_depth": 0, "sub_more": 2},
            {"sub_more < sub_count", "sub_depth is at least 1"},
            id="empty sub-blocks",
        ),
        pytest.param(
            S,
            {"sub_more_deep": 0},
            {"sub_count_deep * sub_depth_deep + sub_more_deep = tile_depth + 1"},
            id="deep sub-blocks do not cover",
        ),
        pytest.param(
            S,
            {"tiles": 7, "tile_depth": 1, "tile_more": 0, "sub_depth": 1, "sub_more_deep": 9},
            set(),
            id="no deeper block: its sub-blocks do not matter",
        ),
        pytest.param(
            S,
            {"flags": int(Flag.EXACT), "sub_depth": 0, "rough_beats": 0, "p_room": 1},
            set(),
            id="dense: the approximate fields do not matter",
        ),
        pytest.param(
            S, {"rough_beats": 0}, {"an approximate part has approximate beats"}, id="no beat"
        ),
        pytest.param(
            S,
            {"p_rows": 8},
            {"p_row_tiles = ceil(p_rows / rows of the projection unit)"},
            id="a tile of P too many",
        ),
        pytest.param(
            S, {"flags": ROUGH - int(Flag.PROJECT), "p_rows": 8}, set(), id="no projection"
        ),
        pytest.param(S, {"p_room": 3}, set(), id="p just fits"),
        pytest.param(S, {"p_room": 2}, {"p of a deeper block fits its memory"}, id="p of deeper"),
        pytest.param(
            S,
            {"p_room": 1},
            {"p of a block fits its memory", "p of a deeper block fits its memory"},
            id="p",
        ),
        pytest.param(
            U,
            {"batches": 25, "pixels": 25, "tile_depth": 8},
            {"a deeper block fits the accumulators"},
            id="eight accumulators, nine pixels",
        ),
        pytest.param(
            S,
            {"batches": 17, "pixels": 34, "tiles": 2, "tile_depth": 8, "sub_count": 2}
            | {"sub_depth": 4, "sub_count_deep": 2, "sub_depth_deep": 4},
            {
                "a deeper block fits the accumulators",
                "sub_depth_deep + 1 fits the collector where sub_more_deep is not 0",
            },
            id="a sub-block of five batches, a collector of four",
        ),
        pytest.param(S, {"flags": 0}, {"a part has at least one phase"}, id="no phase"),
        pytest.param(
            S, {"flags": int(Flag.EXACT | Flag.RANK)}, {"a dense part selects nothing"}, id="rank"
        ),
        pytest.param(
            S, {"flags": int(Flag.EXACT | Flag.INJECT)}, {"a dense part selects nothing"}, id="inj"
        ),
        pytest.param(
            S,
            {"flags": int(Flag.EXACT | Flag.PROJECT)},
            {"a dense part projects nothing"},
            id="projection of a dense part",
        ),
        pytest.param(
            U,
            {"flags": ROUGH | int(Flag.RANK)},
            {"this machine selects by a threshold"},
            id="U: rank",
        ),
    ],
)
def test_compute_by_hand(machine, changes, meanings):
    assert set(broken(machine, "compute", a_part(machine, **changes))) == meanings


@pytest.mark.parametrize("machine", PRESETS.values(), ids=PRESETS)
def test_transfers_stay_in_their_memory(machine):
    """Random transfers are refused if and only if their last row lies behind the last one."""
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(500):
        target = int(rng.integers(0, max(Target) + 1))
        values = {name: int(2 ** rng.uniform(0, 12)) for name in ("base", "inner", "outer")}
        values |= {"stride": int(rng.integers(0, 300)), "target": target, "wait": 0}
        exists = target in set(Target)
        last = values["base"] + (values["outer"] - 1) * values["stride"] + values["inner"] - 1
        legal = exists and last < memory_depth(machine, target_memory(Target(target)))
        assert (broken(machine, "transfer", values) == []) == legal
        refused += not legal
    assert 50 < refused < 450


@pytest.mark.parametrize("kind", ["compute", "transfer"])
@pytest.mark.parametrize("machine", PRESETS.values(), ids=PRESETS)
def test_steps_compute_the_rules(machine, kind):
    """The steps, one addition each, give what the rules say, and never use a field too soon."""
    rng = np.random.default_rng(2)
    fields = (compute_fields if kind == "compute" else transfer_fields)(machine)
    usable = {field.name: index + 3 for index, field in enumerate(fields)}
    table = schedule(machine, kind)
    rules = compute_rules(machine) if kind == "compute" else transfer_rules(machine)
    for _ in range(100):
        values = {
            field.name: int(rng.integers(max(0, field.low), min(field.high, 12) + 1))
            for field in fields
        }
        values[DEPTH] = int(rng.integers(1, 100))
        total, results = 0, []
        for cycle, (rule, step, last) in sorted(table.items()):
            before = 0 if step.first else total
            if isinstance(step, Multiply):
                digit = values[step.b] >> 4 * step.digit & 15
                total = 16 * before + values[step.a] * digit
                names = [step.a, step.b]
            else:
                operand = step.field if isinstance(step.field, int) else values[step.field]
                total = before + step.sign * (operand << step.shift)
                names = [step.field]
            assert all(usable.get(name, 0) <= cycle for name in names)
            if last:
                when = all(values[name] & mask for name, mask in rule.when)
                results.append(not when or (total == 0 if rule.equal else total <= 0))
        assert results == [rule.holds(values) for rule in rules]


@pytest.mark.parametrize("machine", [S, U], ids=lambda machine: machine.kind)
def test_compiled_layers_keep_the_rules(machine):
    for seed in range(60):
        case = random_case(seed, machine)
        inject = case.operands.mask is not None and not case.scheme.dense
        program = compile_layer(case.layer, machine, case.scheme)
        made = commands(program, case.operands.spec, theta=case.theta, inject=inject)
        for values in made.computes:
            assert broken(machine, "compute", values) == []
        for each in made.transfers:
            assert broken(machine, "transfer", each.fields) == []


@pytest.mark.parametrize("machine", PRESETS.values(), ids=PRESETS)
def test_every_rule_is_about_numbers_from_zero(machine):
    """The checker has no signed operands."""
    for fields, rules in (
        (compute_fields(machine), compute_rules(machine)),
        (transfer_fields(machine), transfer_rules(machine)),
    ):
        lows = {field.name: field.low for field in fields}
        assert all(lows[name] >= 0 for rule in rules for name in rule.fields)


def test_slots():
    """A slot is the least power of two that holds header, fields and sum: 10 and 65 words."""
    for fields in (transfer_fields(S), compute_fields(S)):
        assert slot_words(fields) == 2 ** ceil(log2(len(fields) + 2))
    assert slot_words(transfer_fields(S)) == 16


def test_fetch_cycles_follow_the_contract():
    """A descriptor takes at least a cycle a word, and the judgement."""
    for machine in PRESETS.values():
        for kind, fields in (("compute", compute_fields), ("transfer", transfer_fields)):
            assert fetch_cycles(machine, kind) >= len(fields(machine)) + 2 + CONTRACT.fetch


@pytest.mark.parametrize(
    ("machine", "target", "rows", "cycles"),
    [
        pytest.param(S, Target.WEIGHTS, 5, 10 + 2, id="128 bits a row, 64 a word"),
        pytest.param(S, Target.MASKS, 5, 5 + 2, id="two rows a word: a row a cycle"),
        pytest.param(S, Target.STORE_Y, 5, 5 + 5, id="64 bits a row"),
        pytest.param(S, Target.STORE_YQ, 5, 5 + 5, id="four rows a word: a row a cycle"),
        pytest.param(U, Target.PARAMETERS, 3, 24 + 2, id="512 bits a row"),
    ],
)
def test_transfer_cycles_by_hand(machine, target, rows, cycles):
    assert transfer_cycles(machine, target, rows) == cycles


def test_quantised_rows_are_a_quarter():
    assert transfer_row_bits(S, Target.STORE_YQ) * 4 == transfer_row_bits(S, Target.STORE_Y) == 64
