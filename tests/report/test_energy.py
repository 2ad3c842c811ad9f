"""Energy: counts times a table, recomputed by hand; the table against its published sources."""

import dataclasses

import pytest

from sinai.common.machine import PRESETS, override
from sinai.report.area import art, logic_um2
from sinai.report.energy import COMPONENTS, LEAKAGE, energy, ert
from sinai.report.logic import levels, tree_bits, units
from sinai.sim.counts import EVENTS, MEMORIES

U, S = PRESETS["unstructured"], PRESETS["structured"]


def test_energy_is_counts_times_table_by_hand(result):
    """7 reads of weights and 5 of x at 24.5325 pJ (CACTI: 32 KiB, 512 bit, 1r1w, lop, 300 K) and
    a register of 512 bits, 2 writes of 32 nibbles of p, one of four macros, at 24.9114 pJ (8 KiB),
    1000 MACs, 4 scans of 384 mux2 and 64 register bits."""
    mac = 256 * 0.0031 + (216 + (16 * 32 + 8 * 33 + 4 * 34 + 2 * 35 + 36) / 32) * 0.0031
    mac += 216 * 0.001 + (128 + 32 + 37 / 32) * 0.004
    scan = 384 * 0.001 + 64 * 0.004
    read = 24.5325 + 512 * 0.004
    dynamic = 12 * read + 2 * 24.9114 + 1000 * mac + 4 * scan
    leakage = ert(U)["sram_leakage.cycle"].pj + ert(U)["logic_leakage.cycle"].pj
    spent = energy(result)
    cycles = [100, 50, 200, 50]
    assert spent["energy_pj"].tolist() == pytest.approx([dynamic + leakage * n for n in cycles])
    assert spent["energy_weights_pj"].tolist() == pytest.approx([7 * read] * 4)
    assert spent["energy_mvu_pj"].tolist() == pytest.approx([1000 * mac] * 4)


def test_there_is_no_hidden_term(result):
    """The sum over events of counts x table and cycles x leakage is the energy, for unit prices."""
    table = {name: dataclasses.replace(entry, pj=1.0) for name, entry in ert(U).items()}
    spent = energy(result, table)
    events = result.counts.sum(axis=1) + len(LEAKAGE) * result.layers["cycles"]
    assert spent["energy_pj"].tolist() == pytest.approx(events.tolist())
    parts = [f"energy_{name}_pj" for name in COMPONENTS]
    assert list(spent.columns) == [*parts, "energy_pj"]
    assert spent[parts].sum(axis=1).tolist() == pytest.approx(spent["energy_pj"].tolist())


def test_counted_event_without_energy_is_refused(result):
    counts = result.counts.assign(**{"select.rank": 1})
    with pytest.raises(KeyError, match=r"counted event\(s\) select.rank of machine unstructured"):
        energy(dataclasses.replace(result, counts=counts))


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_every_event_has_a_positive_energy_and_says_where_from(event):
    entries = [table[event] for table in map(ert, PRESETS.values()) if event in table]
    assert entries
    for entry in entries:
        assert entry.pj > 0
        assert entry.formula
        assert entry.assumed == ("assumed" in entry.source)


@pytest.mark.parametrize(
    ("unit", "published_pj", "bits"),
    [
        pytest.param("add_bit", 0.1, 32, id="32-bit add 0.1 pJ"),
        pytest.param("multiply_bit2", 0.2, 8 * 8, id="8-bit multiply 0.2 pJ"),
        pytest.param("multiply_bit2", 3.1, 32 * 32, id="32-bit multiply 3.1 pJ"),
    ],
)
def test_units_agree_with_horowitz(unit, published_pj, bits):
    """Horowitz, ISSCC 2014, figure 1.1.9, to 5 %."""
    assert units("energy_pj")[unit].value * bits == pytest.approx(published_pj, rel=0.05)


@pytest.mark.parametrize("section", ["energy_pj", "area_um2", "leakage"])
def test_every_unit_of_logic_is_marked_assumed(section):
    for unit in units(section).values():
        assert unit.assumed is True
        assert unit.unit
        assert unit.source
        assert unit.rule


def test_sixteen_bit_mac_costs_more_than_sixteen_four_bit_ones():
    """A 16-bit product needs the combining adders on top of the same sixteen multipliers."""
    table = ert(S)
    assert 16 * table["mvu.mac4"].pj < table["mvu.mac16"].pj < 30 * table["mvu.mac4"].pj


def test_wider_window_costs_more():
    """A window of 16 is two levels of 512 bits deeper than one of 4."""
    narrow = override(U, ["window=4"])
    more = ert(U)["window.read"].pj - ert(narrow)["window.read"].pj
    assert more == pytest.approx(2 * 512 * 0.001)
    # 12 more words, twice, and as many more inputs for each of 16 lanes.
    area = art(U)["window"].um2 - art(narrow)["window"].um2
    assert area == pytest.approx(2 * 12 * 512 * (4.5 + 16 * 1.9))


def test_more_weight_words_cost_area():
    """Two words a lane are 4 lanes x (256 + 128) more bits that banks of weights and parameters
    keep: a flip-flop and a multiplexer each."""
    more = art(override(S, ["weight_words=2"]))
    added = more["bank_output"].um2 - art(S)["bank_output"].um2
    assert added == pytest.approx(4 * (256 + 128) * (4.5 + 1.9))
    assert more["bank_output"].instances - art(S)["bank_output"].instances == 8
    assert logic_um2(override(S, ["weight_words=2"])) == pytest.approx(logic_um2(S) + added)


def test_part_of_a_word_costs_the_macros_that_hold_it():
    """A tile's 32 rows of p are 128 of 2048 bits, one macro of four; a read takes all four, and the
    word passes two registers."""
    table = ert(U)
    assert table["p.write"].pj == pytest.approx(24.9114)
    assert table["p.read"].pj == pytest.approx(4 * 18.1649 + 2 * 2048 * 0.004)
    # An access of y moves 16 of 64 bits and costs all of them.
    assert table["y.write"].pj == pytest.approx(7.43499)
    assert table["y.read"].pj == pytest.approx(9.44607 + 16 * 0.004)


def test_leakage_by_hand():
    """Macros x (subthreshold + gate) of CACTI, each bank of as many as it needs."""
    tiny = [
        f"memories.{name}.{key}=4" for name in MEMORIES for key in ("capacity_kib", "macro_kib")
    ]
    machine = override(PRESETS["unstructured-small"], tiny)
    # 64 bit: weights (4 banks), x, y (4), residual (2 x 4), xq, projection, masks (4); 128 bit:
    # parameters (4); 256 bit: p.
    expected_mw = 23 * (0.157077 + 0.129959) + 4 * (0.154641 + 0.12737) + (0.157686 + 0.130037)
    # gather: 8 words of 64 bit, 1 KiB; sums: 256 of 80 bit, 4 KiB x 128 bit; tap: 2048 of 256 bit.
    expected_mw += (0.0451869 + 0.0386697) + (0.154641 + 0.12737) + 2 * (1.01266 + 0.813817)
    assert ert(machine)["sram_leakage.cycle"].pj == pytest.approx(expected_mw * 2.0)
    logic = ert(machine)["logic_leakage.cycle"].pj
    assert logic == pytest.approx(logic_um2(machine) * 0.02e-3 * 2.0)


@pytest.mark.parametrize(("inputs", "expected"), [(1, 0), (2, 1), (8, 3), (9, 4)])
def test_levels_by_hand(inputs, expected):
    assert levels(inputs) == expected


@pytest.mark.parametrize(
    ("leaves", "bits", "expected"),
    [(1, 8, 0), (2, 8, 8), (4, 8, 2 * 8 + 9), (16, 8, 8 * 8 + 4 * 9 + 2 * 10 + 11), (3, 5, 5 + 6)],
)
def test_tree_bits_by_hand(leaves, bits, expected):
    assert tree_bits(leaves, bits) == expected
